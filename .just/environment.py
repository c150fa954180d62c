"""Make or mend `.venv` in the clone, so that every recipe of the justfile finds a whole one.

Run by any Python 3, standard library only. A stamp, written last, says what a whole environment
holds; nothing is started to see that it still does. `--repair` looks into every package.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
VENV = CLONE / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "minivess.json"
LOCK = CLONE / ".just" / "lock"
PULSE_S = 20
"""Seconds between two signs of life of pip, which says nothing for minutes."""
INPUTS = ("pyproject.toml", "constraints.txt")
# Newest last: the pins were tried on 3.11. Prefect does not run on 3.15.
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def main(words):
    """Leave a whole environment with the extras named in `words`; 0 or an exit code."""
    words = " ".join(words).split()
    extras = {word for word in words if not word.startswith("-")}
    known = re.findall(r"^(\w+) = \[", extras_table(), re.MULTILINE)
    if extras - set(known):
        fail(
            f"There is no extra {', '.join(sorted(extras - set(known)))}.",
            f"just setup [{'|'.join(known)}]",
        )
    if "--broken" in words:
        print("\n".join(broken()))
    elif "--repair" in words or missing(extras):
        with locked() as descriptor:
            why = "asked to repair" if "--repair" in words else missing(extras)
            if why:
                mend(extras, why, descriptor)
    return 0


# --- is it whole? -------------------------------------------------------------------------


def missing(extras):
    """Why the environment is not whole, or an empty text."""
    if not VENV.exists():
        return "the first time takes some minutes"
    stamp = read_stamp()
    if not stamp:
        return "it was not finished"
    if stamp["clone"] != str(CLONE) or not os.access(PYTHON, os.X_OK):
        return "it was made elsewhere or its Python is gone"
    if stamp["inputs"] != inputs() or stamp["python"] != os.path.realpath(PYTHON):
        return "pyproject.toml, constraints.txt or Python changed"
    if not set(stamp["entries"]) <= set(entries()):
        return "packages or commands are missing"
    if not extras <= set(stamp["extras"]):
        return f"{' and '.join(sorted(extras))} asked for"
    return ""


def read_stamp():
    """What the last finished set-up wrote, or an empty dict."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def extras_table():
    """The part of pyproject.toml that names the extras."""
    text = (CLONE / "pyproject.toml").read_text(encoding="utf-8")
    return text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]


def inputs():
    """Hash of the files that decide what is installed."""
    return hashlib.sha256(b"".join((CLONE / name).read_bytes() for name in INPUTS)).hexdigest()


def entries():
    """Names of packages and commands; what a user adds does no harm."""
    folders = [VENV, VENV / "bin", *(VENV / "lib").glob("python3*/site-packages")]
    return sorted(
        f"{folder.name}/{name}"
        for folder in folders
        if folder.is_dir()
        for name in os.listdir(folder)
        if name not in {"__pycache__", STAMP.name}
    )


# --- make or mend -------------------------------------------------------------------------


@contextmanager
def locked():
    """One set-up at a time; pip inherits the lock, so that it holds even if we are killed."""
    with LOCK.open("a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another `just` is setting up .venv; waiting for it.")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


def mend(extras, why, descriptor):
    """Make the environment or what is missing of it, then write the stamp."""
    started = time.monotonic()
    extras = extras | set(read_stamp().get("extras", []))
    STAMP.unlink(missing_ok=True)
    say(f"Setting up {VENV}: {why}.")
    sweep()
    if moved() or not usable():
        create(descriptor)
    wanted = f".[{','.join(sorted(extras))}]" if extras else "."
    install(["-c", "constraints.txt", "-e", wanted], descriptor)
    found = run([PYTHON, "-I", __file__, "--broken"], descriptor, capture=True).split()
    if found:
        say(f"Installing again what was damaged: {', '.join(found)}")
        install(["--force-reinstall", "--no-deps", "-c", "constraints.txt", *found], descriptor)
    if not (VENV / "bin" / "minivess").is_file():
        fail(f"pip left no minivess in {VENV}.", "rm -rf .venv, then the same command again")
    write_stamp(extras)
    say(f"Ready after {time.monotonic() - started:.0f} s.")


def moved():
    """Whether the scripts in the environment point to another place."""
    config = VENV / "pyvenv.cfg"
    lines = config.read_text(encoding="utf-8").splitlines() if config.is_file() else []
    commands = [line for line in lines if line.startswith("command =")]
    return any(not line.endswith(f" {VENV}") for line in commands)


def usable():
    """Whether the environment's Python runs, is one of ours, and has pip."""
    # Without this file .venv/bin/python is the system's Python, and pip would write there.
    if not (VENV / "pyvenv.cfg").is_file():
        return False
    version = probe(PYTHON, "pip")
    return version in VERSIONS and (VENV / "lib" / f"python{version}").is_dir()


def sweep():
    """Drop records of packages whose installation was cut short: pip takes them for installed."""
    for record in (VENV / "lib").glob("python3*/site-packages/*.dist-info"):
        if not (record / "RECORD").is_file():
            shutil.rmtree(record)


def create(descriptor):
    """Make the virtual environment; packages that are already there stay where they can."""
    base, version = find_python()
    libraries = {folder.name for folder in (VENV / "lib").glob("python3*")}
    keep = not moved() and libraries <= {f"python{version}"}
    for options in [[], ["--clear"]] if keep else [["--clear"]]:
        run([base, "-m", "venv", *options, VENV], descriptor)
        if usable():
            return
    fail(f"{base} made a virtual environment that does not run.", "rm -rf .venv, then once more")


def find_python():
    """A Python that can make environments: the one that runs this first.

    Returns its path and its version, as 3.11.
    """
    names = [sys.executable, *(f"python{version}" for version in VERSIONS), "python3", "python"]
    found = {path: probe(path) for path in filter(None, map(shutil.which, names))}
    fitting = {path: version for path, version in found.items() if version in VERSIONS}
    for path, version in fitting.items():
        if probe(path, "venv, ensurepip"):
            return path, version
    if fitting:
        path, version = next(iter(fitting.items()))
        fail(f"{path} cannot make virtual environments.", f"sudo apt install python{version}-venv")
    seen = ", ".join(f"{path} is {version}" for path, version in found.items() if version)
    return fail(
        f"minivess needs Python 3.11 to 3.14; {seen or 'there is none'}.",
        "install one (Debian, Ubuntu: sudo apt install python3.11 python3.11-venv; with uv: "
        "uv python install 3.13 --default), then the same command again",
    )


def probe(python, modules="sys"):
    """The version of a Python that imports `modules`, as 3.11, or an empty text."""
    code = f"import sys, {modules}; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", code], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def install(words, descriptor):
    """Run pip, quiet but for errors and a line every `PULSE_S` seconds."""
    pip = [PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    ended, started = threading.Event(), time.monotonic()

    def pulse():
        while not ended.wait(PULSE_S):
            packages = len(list((VENV / "lib").glob("python3*/site-packages/*.dist-info")))
            passed = time.monotonic() - started
            say(f"  pip downloads and installs, {passed:.0f} s, {packages} packages are there")

    threading.Thread(target=pulse, daemon=True).start()
    try:
        run([*pip, *words], descriptor)
    finally:
        ended.set()


def run(command, descriptor, capture=False):
    """Run in the clone while the lock is held; end here if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=CLONE,
        env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "1", "PYTHONPATH": ""},
        pass_fds=(descriptor,),
        stdout=subprocess.PIPE if capture else sys.stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        fail(
            f"{VENV} could not be set up: `{' '.join(map(str, command[1:4]))}` ended with "
            f"{done.returncode}; the reason stands above.",
            "check the network and the free disk space, then the same command again",
        )
    return done.stdout or ""


def broken():
    """Installed packages with missing or cut files, as name==version; for the .venv's Python."""
    from importlib.metadata import distributions

    for package in distributions(path=[path for path in sys.path if path.startswith(str(VENV))]):
        name = package.metadata["Name"]
        if name and name != "minivess" and not all(map(is_whole, package.files or [None])):
            yield f"{name}=={package.version}"


def is_whole(file):
    """Whether a recorded file is there in its recorded size."""
    if file is None:
        return False
    try:
        return file.size is None or file.locate().stat().st_size == file.size
    except OSError:
        return file.suffix == ".pyc"


def write_stamp(extras):
    """Say that all is done; the rename comes last."""
    stamp = {
        "clone": str(CLONE),
        "python": os.path.realpath(PYTHON),
        "inputs": inputs(),
        "extras": sorted(extras),
        "entries": entries(),
    }
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps(stamp), encoding="utf-8")
    temporary.replace(STAMP)


def say(text):
    """One line for the user; standard output stays free for --json."""
    print(text, file=sys.stderr, flush=True)


def fail(problem, remedy):
    """End with what happened and what to do."""
    say(f"{problem}\n  Try: {remedy}")
    sys.exit(1)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except PermissionError as error:
        fail(f"{error.filename} cannot be written.", "clone into a folder that you may write to")
