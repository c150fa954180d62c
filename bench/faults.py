"""Does MLflow get every value once, in order, whatever happens to it? `--faults 200 --seed 0`.

A real server on SQLite, killed and restarted, frozen, its database locked by another process, and
a relay before it that answers 500, answers late, never, drops answers, or is gone. Meanwhile runs
are opened, written and closed as training does. Prints what was lost, doubled or out of order.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from minivess import config, names
from minivess.config import ExperimentConfig, TrackingConfig
from minivess.home import open_home
from minivess.tracking.journal import uploader
from minivess.tracking.run.run import Run
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store.store import Store, store_at

RELAYED = ("500", "slow", "silent", "lost", "gone")
REAL = ("killed", "frozen", "locked")
STEPS, PAUSE_S = 40, 0.05
CALM_S = 120.0
QUIET = ExperimentConfig(tracking=TrackingConfig(log_system_metrics=False))


@dataclass
class Report:
    """What came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    values: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    runs_doubled: int = 0
    unfinished: int = 0
    files_lost: int = 0
    calls_us: list[float] = field(default_factory=list)
    blocked_s: float = 0.0
    trained_s: float = 0.0

    @property
    def blocked(self) -> float:
        """Share of the training's time that was spent in calls."""
        return self.blocked_s / self.trained_s

    def __str__(self) -> str:
        calls = sorted(self.calls_us)
        return (
            f"faults injected {sum(self.faults.values())} ({dict(sorted(self.faults.items()))})\n"
            f"runs {self.runs}, doubled {self.runs_doubled}, unfinished {self.unfinished}\n"
            f"values {self.values}, lost {self.lost}, doubled {self.doubled}, out of order "
            f"{self.disordered}; files lost {self.files_lost}\n"
            f"call: median {statistics.median(calls):.0f} us, 99th percentile "
            f"{calls[int(len(calls) * 0.99)]:.0f} us; time in calls {self.blocked:.3%}"
        )


# --- a server, and a relay before it --------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """MLflow's server as a process that can be treated badly."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"

    def start(self) -> None:
        """Start it and wait until it answers."""
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.database}"]
        words += ["--artifacts-destination", str(self.folder / "served")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                stdout=log, stderr=log, start_new_session=True,
                env=config.child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            )  # fmt: skip
        deadline = time.monotonic() + 300
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Relay:
    """Passes requests on to the server, except while a fault is set."""

    def __init__(self, server: Server) -> None:
        self.server, self.port, self.fault = server, free_port(), ""
        self.hit, self.over = threading.Event(), threading.Event()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.open()

    def open(self) -> None:
        """Listen."""
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    relay.pass_on(self)
                else:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.listening = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.listening.daemon_threads = True
        threading.Thread(target=self.listening.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Be gone."""
        self.listening.shutdown()
        self.listening.server_close()

    def pass_on(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request, or not."""
        fault, body = self.fault, _body(request)
        if fault:
            self.hit.set()
        status, answer = 500, b"no"
        if fault == "silent":
            self.over.wait(5)
        if fault == "slow":
            time.sleep(0.7)
        if fault not in ("500", "silent"):
            try:
                status, answer = self._ask(request, body)
            except (OSError, http.client.HTTPException):
                status, answer = 502, b"gone"
        if fault in ("silent", "lost"):
            request.close_connection = True
            return
        try:
            request.send_response(status)
            request.send_header("Content-Length", str(len(answer)))
            request.end_headers()
            request.wfile.write(answer)
        except OSError:
            request.close_connection = True

    def _ask(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        dropped = ("connection", "transfer-encoding", "content-length")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in dropped}
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    """What follows the headers; an empty file comes in chunks."""
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers["Content-Length"] or 0))
    found = b""
    while size := int(request.rfile.readline(), 16):
        found += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return found


# --- the faults -----------------------------------------------------------------------------


class Storm:
    """Carries out one fault after another, as the seed says."""

    def __init__(self, server: Server, relay: Relay, seed: int) -> None:
        self.server, self.relay, self.random = server, relay, random.Random(seed)

    def strike(self, fault: str) -> bool:
        """One fault from its beginning to its end; whether anybody met it."""
        if fault in REAL:
            {"killed": self.killed, "frozen": self.frozen, "locked": self.locked}[fault]()
            return True
        if fault == "gone":
            self.relay.close()
            time.sleep(self.random.uniform(0.3, 1.0))
            self.relay.open()
            return True
        self.relay.hit.clear()
        self.relay.over.clear()
        self.relay.fault = fault
        met = self.relay.hit.wait(10)
        time.sleep(self.random.uniform(0, 0.5))
        self.relay.fault = ""
        self.relay.over.set()
        return met

    def killed(self) -> None:
        """kill -9, and a new start."""
        self.server.kill()
        time.sleep(self.random.uniform(0, 1))
        self.server.start()

    def frozen(self) -> None:
        """SIGSTOP for longer than a call waits, then on with what had been asked."""
        self.server.signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, 3.5))
        self.server.signal(signal.SIGCONT)

    def locked(self) -> None:
        """Another process holds the database."""
        holder = sqlite3.connect(self.server.database, timeout=20, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        time.sleep(self.random.uniform(0.5, 3.5))
        holder.execute("ROLLBACK")
        holder.close()


# --- the work -------------------------------------------------------------------------------


def value(run: int, step: int) -> float:
    """What run and step say."""
    return run + step / 1000


def train(store: Store, index: int, report: Report, parent: Run | None) -> None:
    """One run: metrics at every step and a file now and then."""
    with mlflow_run(
        store, experiment="storm", name=f"run{index}", kind=names.CELL, key=str(index), note="n",
        dataset="d", config=QUIET, ingredients={}, parent=parent,
    ) as run:  # fmt: skip
        begun = time.perf_counter()
        for step in range(STEPS):
            called = time.perf_counter()
            run.metrics({f"m{k}": value(index, step) for k in range(10)}, step=step)
            took = time.perf_counter() - called
            report.calls_us.append(took * 1e6)
            report.blocked_s += took
            time.sleep(PAUSE_S)
        run.text(f"{index}", "notes/index.txt")
        report.trained_s += time.perf_counter() - begun
    report.runs += 1


def check(uri: str, report: Report) -> None:
    """Hold what the server has against what was written."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("storm")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=5000)
    named = Counter(run.info.run_name for run in found)
    report.runs_doubled = sum(count - 1 for count in named.values())
    report.lost += (report.runs - len(named)) * STEPS * 10
    report.unfinished += sum(run.info.status != "FINISHED" for run in found)
    for run in found:
        index = int(run.info.run_name.removeprefix("run"))
        report.files_lost += not client.list_artifacts(run.info.run_id, "notes")
        for k in range(10):
            history = client.get_metric_history(run.info.run_id, f"m{k}")
            entries = [(one.step, one.value) for one in history]
            wanted = [(step, value(index, step)) for step in range(STEPS)]
            report.values += len(wanted)
            report.lost += len(set(wanted) - set(entries))
            report.doubled += len(entries) - len(set(entries))
            report.disordered += [e for e in entries if e in wanted] != wanted
            stamps = [one.timestamp for one in history]
            report.disordered += stamps != sorted(stamps)


@contextmanager
def haste() -> Iterator[None]:
    """Short patience, so that many faults fit into little time; nothing else differs."""
    limits = ("LONGEST_PAUSE_S", "GLANCE_S", "PATIENCE_S", "SILENCE_S", "OPENING_S")
    before = {name: getattr(uploader, name) for name in limits}
    vars(uploader).update(zip(limits, (0.5, 0.1, 0.2, 2.0, 1.0), strict=True))
    with config.changed_environment(
        MLFLOW_HTTP_REQUEST_TIMEOUT="2", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="0",
    ):  # fmt: skip
        try:
            yield
        finally:
            vars(uploader).update(before)


def storm(folder: Path, faults: list[str], seed: int, say: Callable[[str], object]) -> Report:
    """Train while all of these faults happen, let everything calm down, and check."""
    server, report, over = Server(folder), Report(), threading.Event()
    server.start()
    relay = Relay(server)
    weather = Storm(server, relay, seed)

    def strike() -> None:
        for number, fault in enumerate(faults):
            report.faults[fault] += weather.strike(fault)
            say(f"{number + 1}/{len(faults)} {fault}, {report.runs} runs")
            time.sleep(weather.random.uniform(0, 0.3))
        over.set()

    try:
        with haste():
            store = store_at(open_home(folder / "home"), TrackingConfig(uri=relay.uri))
            threading.Thread(target=strike, daemon=True).start()
            index = 0
            while not over.is_set():
                train(store, index, report, None)
                index += 1
        say(f"calm, {len(uploader.of(store).pending())} runs on their way")
        # In haste a wait gives up early on what only takes its time; a command would try again.
        until = time.monotonic() + CALM_S
        while (left := uploader.of(store).flush_all()) and time.monotonic() < until:
            say(f"{len(left)} runs left")
        say(f"{len(left)} runs left")
        report.unfinished += len(left)
        check(server.uri, report)
    finally:
        relay.close()
        server.kill()
    return report


def plan(n: int, seed: int, real: int) -> list[str]:
    """`n` faults of all kinds in a random order, `real` of each kind that strikes the server."""
    chosen = [fault for fault in REAL for _ in range(real)]
    chosen += [RELAYED[k % len(RELAYED)] for k in range(n - len(chosen))]
    random.Random(seed).shuffle(chosen)
    return chosen


def main() -> None:
    """Read the words, measure, print."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--faults", type=int, default=210)
    words.add_argument("--real", type=int, default=12, help="of each: killed, frozen, locked")
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="minivess-") as folder:
        faults = plan(given.faults, given.seed, given.real)
        begun = time.monotonic()

        def say(line: str) -> None:
            print(f"{time.monotonic() - begun:4.0f} s  {line}", flush=True)

        print(storm(Path(folder), faults, given.seed, say))
        print(f"in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
