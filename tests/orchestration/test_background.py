"""`minivess up` and the verbs around it, and commands that are sent to a work pool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from minivess.cli import main
from minivess.config import Environment, changed_environment, child_environment, environment
from minivess.home import Home, open_home
from minivess.orchestration.session import open_orchestrator
from minivess.runtime.servers import Server, answers, free_port, read
from tests.conftest import tube, write_nifti

pytestmark = pytest.mark.slow

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "experiments" / "smoke.yaml"


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


def say(*words: str) -> Said:
    """Type a command."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main.main(list(words))
    return Said(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Story:
    """The servers of one home, from `up` to `down`, and what was asked meanwhile."""

    said: dict[str, Said]
    pids: list[list[int]]
    sessions: list[int]
    page: str
    server: Server
    going_on: str
    answered: list[bool]


@pytest.fixture(scope="module")
def story(
    stock: Callable[[Home], None],
    warm_prefect: Callable[[Home], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    """Start the servers twice, send a training to the worker, end them."""
    folder = tmp_path_factory.mktemp("servers")
    home, root = open_home(folder / "home"), folder / "lab stacks"
    incoming = folder / "incoming"
    stock(home)
    warm_prefect(home)
    for index in range(4):
        image, mask = tube((24, 24 + 2 * index, 8), seed=index)
        write_nifti(root / "images" / f"v{index}.nii.gz", image)
        write_nifti(root / "labels" / f"v{index}.nii.gz", mask)
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    theirs: dict[str, str | None] = {
        "MINIVESS_HOME": str(home.root), "PREFECT_HOME": None, "PREFECT_API_URL": None,
        "PREFECT_DISABLED": None, "MLFLOW_TRACKING_URI": None,
    }  # fmt: skip
    words = (str(SMOKE), "training.max_epochs=1", f"data.root={root}")
    said: dict[str, Said] = {}
    with changed_environment(**theirs):
        try:
            said["nothing runs"] = say("health", "--json")
            incoming.mkdir()
            said["up"] = say("up", *ports, "--watch", str(incoming))
            records = [home.prefect / "ui-server.json", home.root / "mlflow-server.json",
                       home.prefect / "worker.json", home.prefect / "watcher.json"]  # fmt: skip
            servers = [found for record in records if (found := read(record)) is not None]
            said["again"] = say("up", *ports, "--json")
            pids = [[one.process.pid for one in servers]]
            pids.append([row["pid"] for row in said["again"].json["servers"]])
            said["other watch"] = say("up", *ports, "--watch", str(root))
            said["busy port"] = say("ui", *ports)
            said["logs"] = say("logs", "worker", "watcher")
            said["train"] = say("train", *words, "--deployed")
            said["no pool"] = say("train", *words, "--deployed", "--pool", "k8s-gpu")
            going_on = train_through_a_killed_server(words, ports, said, servers[0])
            alone = ("--deployed", "--detach", "--json")
            said["detached"] = say("analyse", words[0], words[2], *alone)
            page = flow_page(environment())
            sessions = [os.getsid(pid) for pid in pids[0]]
            said["restart"] = say("restart", "--force", "--json")
            said["down"] = say("down", "--force")
            answered = [answers(f"{one.url}/health") for one in servers[1:3]]
            said["after"] = say("health", "--json")
        finally:
            say("down", "--force")
    return Story(said, pids, sessions, page, servers[0], going_on, answered)


def train_through_a_killed_server(
    words: tuple[str, ...], ports: tuple[str, ...], said: dict[str, Said], prefect: Server
) -> str:
    """Kill Prefect's server while the worker trains, start it again; the state in the end.

    Two people look on until Ctrl-C: one lets their training go on, the other cancels theirs, which
    waits for the first.
    """
    longer = (words[0], "training.max_epochs=8", words[2])
    said["goes on"], flow_run = interrupted(("train", *longer, "--deployed"), "n")
    other = (*longer, "name=other")
    said["cancelled"], second = interrupted(("train", *other, "--deployed"), "y")
    wait_for(lambda: state(prefect, second) in ("Cancelled", "Crashed"))
    said["second"] = Said(0, state(prefect, second), "")
    said["down while busy"] = say("down")
    os.kill(prefect.process.pid, signal.SIGKILL)
    wait_for(lambda: not prefect.process.alive)
    said["killed"] = say("health", "--json")
    said["up again"] = say("up", *ports, "--json")
    wait_for(lambda: state(prefect, flow_run) not in ("Running", "Pending"))
    return state(prefect, flow_run)


def interrupted(words: tuple[str, ...], answer: str) -> tuple[Said, str]:
    """Press Ctrl-C at a terminal while a deployed run is followed, and answer the question."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "minivess.cli.main", *words],
        env=child_environment(), stdin=theirs, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ""
    while not shown.rstrip().endswith("Running"):
        printed = process.stdout.readline()
        assert printed, shown
        shown += printed
    process.send_signal(signal.SIGINT)
    os.write(ours, f"{answer}\n".encode())
    shown += process.communicate(timeout=300)[0]
    os.close(ours)
    os.close(theirs)
    return Said(process.returncode, shown, ""), shown.partition("/flow-run/")[2].split()[0]


def state(server: Server, flow_run: str) -> str:
    """The name of a flow run's state."""
    with urllib.request.urlopen(f"{server.api}/flow_runs/{flow_run}", timeout=60) as answer:
        return str(json.load(answer)["state_name"])


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def flow_page(env: Environment) -> str:
    """The page of a flow of a command that names no server."""
    with open_orchestrator(open_home(env.home), env) as engine:
        return str(engine.flow("look", lambda: engine.page("live")))


def test_servers_start_once_and_stay_in_sessions_of_their_own(story: Story) -> None:
    assert story.said["up"].code == 0, story.said["up"].err
    assert len(story.pids[0]) == 4
    assert story.pids[0] == story.pids[1]
    assert story.sessions == story.pids[0]
    assert "flows of" in story.said["up"].out
    assert "@reboot MINIVESS_HOME=" in story.said["up"].out


def test_health_says_each_server_with_an_exit_code_and_what_helps(story: Story) -> None:
    assert story.said["again"].code == 0
    for row in story.said["again"].json["servers"]:
        assert row["well"]
        assert row["fix"] is None
    before = story.said["nothing runs"]
    assert (before.code, {row["fix"] for row in before.json["servers"]}) == (1, {"minivess up"})


def test_commands_find_the_server_without_its_address(story: Story) -> None:
    assert story.page.startswith(story.server.url)


def test_a_second_page_of_the_same_home_names_the_first(story: Story) -> None:
    refused = story.said["busy port"]
    assert refused.code == 1
    assert "minivess down" in refused.err


def test_the_logs_of_a_server_are_shown(story: Story) -> None:
    assert "worker   " in story.said["logs"].out


def test_a_watcher_is_one_of_the_servers_and_looks_at_one_place(story: Story) -> None:
    watcher = story.said["again"].json["servers"][-1]
    assert (watcher["name"], watcher["address"].rpartition("/")[2]) == ("watcher", "incoming")
    assert "watcher  Watching" in story.said["logs"].out
    refused = story.said["other watch"]
    assert refused.code == 1
    assert "incoming already" in refused.err
    assert f"--watch '{watcher['address'].removesuffix('incoming')}lab stacks'" in refused.err
    assert f"up --watch {watcher['address']}" in story.said["up"].out


def test_restart_starts_the_same_servers_at_the_same_addresses(story: Story) -> None:
    again = story.said["restart"]
    assert again.code == 0, again.err
    before, after = story.said["up again"].json["servers"], again.json["servers"]
    same = {row["name"]: row["address"] for row in before if row["name"] != "worker"}
    assert same.items() <= {row["name"]: row["address"] for row in after}.items()
    assert {"prefect", "mlflow", "watcher"} == same.keys()
    assert not {row["pid"] for row in before} & {row["pid"] for row in after}


def test_ctrl_c_asks_before_it_cancels_a_run_that_is_followed(story: Story) -> None:
    kept, cancelled = story.said["goes on"], story.said["cancelled"]
    for one in (kept, cancelled):
        assert "Cancel the flow run? [y/N]" in one.out
    assert (kept.code, "it goes on; its page shows how" in kept.out) == (130, True)
    assert story.going_on == "Completed"
    assert "  cancelled" in cancelled.out
    assert story.said["second"].out == "Cancelled"


def test_a_command_that_is_sent_to_the_pool_is_followed_to_its_end(story: Story) -> None:
    sent = story.said["train"]
    assert sent.code == 0, sent.out + sent.err
    assert "sent to train/local: http://" in sent.out
    assert "epoch 1/1" in sent.out
    assert sent.out.rstrip().endswith("Completed")


def test_a_training_outlives_the_prefect_server_that_its_worker_asks(story: Story) -> None:
    busy = story.said["down while busy"]
    assert (busy.code, "carries out 1 flow run" in busy.err) == (1, True)
    before = {row["name"]: row for row in story.said["killed"].json["servers"]}
    after = {row["name"]: row for row in story.said["up again"].json["servers"]}
    assert (before["prefect"]["well"], before["prefect"]["fix"]) == (False, "minivess up")
    assert after["prefect"]["well"]
    assert after["worker"]["pid"] == before["worker"]["pid"]
    assert story.going_on == "Completed"


def test_a_pool_without_the_flow_is_named_with_those_that_have_it(story: Story) -> None:
    refused = story.said["no pool"]
    assert refused.code == 1
    assert "'k8s-gpu'; registered: train/local on local-process" in refused.err


def test_a_detached_command_says_where_its_run_is_shown(story: Story) -> None:
    sent = story.said["detached"].json
    assert sent["page"].endswith(sent["flow_run_id"])
    assert "state" not in sent


def test_down_ends_every_server(story: Story) -> None:
    assert story.said["down"].code == 0
    assert story.answered == [False, False]
    assert story.said["after"].code == 1


def test_options_of_a_deployed_command_need_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["train", "--detach"]) == 2
    assert "add --deployed" in capsys.readouterr().err
