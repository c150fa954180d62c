"""A training that moves beats; one that stands still says so, once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from minivess.training.monitoring import watchdog


class Heard:
    """What the thread told, and a way to wait for it."""

    def __init__(self, folder: Path) -> None:
        self.beats: list[watchdog.ProgressEvent] = []
        self.stalls: list[Path | None] = []
        self.news = threading.Condition()
        self.pulse = watchdog.Heartbeat(
            on_progress=self.beat, on_stall=self.stall, folder=folder, patience=3, shortest_s=0.2
        )

    def beat(self, beat: watchdog.ProgressEvent) -> None:
        with self.news:
            self.beats.append(beat)
            self.news.notify_all()

    def stall(self, stack: Path | None) -> None:
        with self.news:
            self.stalls.append(stack)
            self.news.notify_all()

    def until(self, stalls: int, *, moving: bool = False) -> None:
        with self.news:
            while len(self.stalls) < stalls:
                if moving:
                    self.pulse.step(1)
                assert self.news.wait(0.05) or time.monotonic() < self.deadline

    @property
    def deadline(self) -> float:
        self._deadline = getattr(self, "_deadline", time.monotonic() + 600)
        return self._deadline


def stand_still_here(heard: Heard) -> None:
    heard.until(1)


def test_a_stall_is_told_once_with_the_stack_of_each_thread_and_so_is_its_end(tmp_path, caplog):
    heard = Heard(tmp_path)
    with heard.pulse:
        heard.pulse.step(1)
        stand_still_here(heard)
        heard.until(2, moving=True)
    stack, over = heard.stalls
    assert over is None
    assert "stand_still_here" in stack.read_text()
    assert "Nothing has moved" in caplog.text
    assert "goes on after a stall" in caplog.text


def test_patience_is_a_multiple_of_the_longest_usual_time(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    nobody = {"on_progress": lambda _: None, "on_stall": lambda _: None, "folder": tmp_path}
    watched = watchdog.Heartbeat(**nobody)
    assert watched.limit_s() == watchdog.UNKNOWN_S
    for _ in range(5):
        now += 1
        watched.step(1)
    assert watched.limit_s() == watchdog.SHORTEST_S
    now += 10
    watched.tick("volume")
    assert watched.limit_s() == watchdog.PATIENCE * 10


def test_the_time_left_runs_down_within_an_epoch(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watched = watchdog.Heartbeat(
        on_progress=lambda _: None, on_stall=lambda _: None, folder=tmp_path
    )
    watched.begin(watchdog.ProgressEvent(1, 3, 0, 4, 60.0))
    left = []
    for _ in range(3):
        now += 25
        left.append(watched.now().left_s)
    assert left == [35, 30, 30]  # the epoch that follows takes 30 s
    watched.begin(watchdog.ProgressEvent(2, 3, 0, 4, 20.0))
    now += 25
    assert watchdog.progress_text(watched.now()) == "epoch 3/3, step 0/4, about <1 s left"
    watched.begin(watchdog.ProgressEvent(0, 3, 0, 4, None))
    assert watched.now().left_s is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "<1 s"), (5, "5 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_a_beat_in_words(seconds, words):
    beat = watchdog.ProgressEvent(epoch=2, epochs=10, step=3, steps=8, left_s=seconds)
    assert watchdog.progress_text(beat) == f"epoch 3/10, step 3/8, about {words} left"
