"""Run a server that ends by itself once no command has used it for some time.

`python -m minivess.runtime.idle FOLDER SECONDS MODULE WORDS...` runs a module in this process. A
command uses the server while it shares the lock `USERS` of the folder, which the kernel takes from
one that is killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from minivess.home import is_used, lock

TURN, USERS = "server.lock", "server.users"
"""Held while a server of a folder is looked for, started or ended; shared while it is used."""
LOOK_S, END_LIMIT_S = 1.0, 15.0


def main(folder: str, seconds: str, module: str, *words: str) -> None:
    """Run the module as if it was called by itself."""
    threading.Thread(target=watch, args=(Path(folder), float(seconds)), daemon=True).start()
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def watch(folder: Path, idle_s: float) -> None:
    """End this process once it was not used for `idle_s`, or the folder is gone."""
    last = time.monotonic()
    while folder.exists():
        time.sleep(LOOK_S)
        if is_used(folder / USERS):
            last = time.monotonic()
        elif time.monotonic() - last >= idle_s:
            # A folder that may only be read by now has no commands that write.
            with (
                suppress(OSError),
                lock(folder / TURN, what="end Prefect's idle server", wait=True),
            ):
                if is_used(folder / USERS):
                    continue
                leave()
            leave()
    leave()


def leave() -> NoReturn:
    """End in order, or without if a page that is open somewhere keeps the server from it."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_LIMIT_S)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
