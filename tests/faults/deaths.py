"""A command that SIGKILL ends at a chosen call, or whose terminal goes away."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
import threading
from pathlib import Path

from minivess.cli import main as cli
from tests.training.dying import die_at


def main(place: str, call: int, words: list[str]) -> int:
    """Let the n-th call of the function at `place` kill the process that runs the words."""
    die_at(place, call)
    return cli.main(words)


def lose_terminal(words: list[str]) -> int:
    """Run the words on a terminal that is closed, as by a lost connection, at the second epoch."""
    master, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    def watch(seen: bytes = b"") -> None:
        while b"epoch 2/" not in seen:
            seen += os.read(master, 1000)
        os.close(master)

    for number in (1, 2):
        os.dup2(slave, number)
    os.close(slave)
    threading.Thread(target=watch, daemon=True).start()
    return cli.main(words)


def outage(words: list[str]) -> int:
    """Profile the data at `words[0]` while MLflow's server is killed and started again."""
    from bench import faults
    from minivess import files
    from minivess.config import Environment, load
    from minivess.orchestration.session import open_session
    from minivess.stages.profile import profile_data

    root, home, folder = map(Path, words)
    server = faults.Server(folder)
    server.start()
    asked = load([], [f"data.root={root}", f"tracking.uri={server.uri}"])
    try:
        with open_session(asked, Environment(home=home, prefect_disabled=True)) as session:
            session.store.client.search_experiments()
            server.kill()
            profile = profile_data(session)
            assert not session.home.pointers.exists()
            server.start()
        run_id = session.store.resolve(str(profile.run_id))
        published = files.read_json(session.home.pointers)
        assert published["latest_data_profile"]["run_id"] == run_id
        assert session.store.get(run_id).status == "FINISHED"
    finally:
        server.kill()
    return 0
