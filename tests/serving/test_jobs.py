"""Jobs of a service: kept on disk, bounded in number and age, begun again a few times."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from minivess.serving import jobs
from minivess.serving.jobs import Jobs
from minivess.serving.upload import Refusal
from minivess.serving.waiting import Queue, stoppable


def asked(folder: Path | None, method: str, path: str) -> dict[str, str]:
    """Ask for a job; returns the JSON of the answer."""
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"content-type", b"x")]}
    reply = asyncio.run(Jobs(folder).reply(scope, io.BytesIO(b"body")))
    found: dict[str, str] = json.loads(bytes(reply.body))
    return found


def refused(folder: Path | None, method: str, path: str) -> tuple[int, str]:
    """Ask for what is refused; returns status and problem."""
    with pytest.raises(Refusal) as error:
        asked(folder, method, path)
    return error.value.answer.status_code, str(error.value)


def test_a_service_without_a_folder_for_jobs_says_how_to_get_one(tmp_path: Path) -> None:
    assert refused(None, "POST", "/jobs") == (404, "This service keeps no jobs.")
    assert refused(None, "GET", "/jobs/abc")[0] == 404


def test_jobs_are_bounded_in_number_and_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST", 2)
    first, second = (asked(tmp_path, "POST", "/jobs") for _ in range(2))
    assert (tmp_path / first["id"]).stat().st_mode & 0o777 == 0o700
    assert refused(tmp_path, "POST", "/jobs")[0] == 429
    long_ago = time.time() - jobs.KEPT_S - 60
    os.utime(tmp_path / first["id"], (long_ago, long_ago))
    third = asked(tmp_path, "POST", "/jobs")
    assert {path.name for path in tmp_path.iterdir()} == {second["id"], third["id"]}
    assert asked(tmp_path, "DELETE", f"/jobs/{third['id']}")["state"] == "cancelled"
    assert refused(tmp_path, "GET", f"/jobs/{third['id']}")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/jobs", 405),
        ("PUT", "/jobs/abc", 405),
        ("GET", "/jobs/../../etc/passwd", 405),
        ("GET", "/jobs/..", 404),
        ("DELETE", "/jobs/", 405),
        ("GET", "/jobs/abc/result", 404),
    ],
)
def test_what_names_no_job_is_refused(method: str, path: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    assert refused(tmp_path / "kept", method, path)[0] == status
    assert (tmp_path / "kept").exists()


async def worked(folder: Path, ask: ASGIApp) -> None:
    """Let a service work for a moment."""
    task = asyncio.create_task(Jobs(folder).work(ask))
    await asyncio.sleep(3 * jobs.POLL_S)
    task.cancel()


def test_a_job_at_which_the_service_ended_again_and_again_is_given_up(tmp_path: Path) -> None:
    job = asked(tmp_path, "POST", "/jobs")
    assert job["state"] == "waiting"

    async def ends(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("out of memory")

    (tmp_path / job["id"] / jobs.BEGUN).write_text("xx")
    asyncio.run(worked(tmp_path, ends))
    assert asked(tmp_path, "GET", f"/jobs/{job['id']}")["state"] == "failed"
    answer = json.loads((tmp_path / job["id"] / jobs.ANSWER).read_text())
    assert "ended 3 times" in answer["error"]
    assert not (tmp_path / job["id"] / jobs.REQUEST).exists()


def test_a_network_stops_at_its_next_window_when_nobody_waits_any_more() -> None:
    run = stoppable(lambda part: part)

    async def ask() -> None:
        async with Queue(1, 1).turn():
            assert run(1) == 1
        with pytest.raises(InterruptedError):
            run(1)

    assert run(1) == 1
    asyncio.run(ask())
