"""The contract of an orchestrator, and the one that needs no Prefect (PREFECT_DISABLED)."""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, TypeVar

from minivess import files
from minivess.errors import MinivessError, OrchestrationError, RemoteError, StoreError
from minivess.home import Home, lock

log = logging.getLogger(__name__)

T = TypeVar("T")
Pointer = dict[str, Any]

FlowState = Literal["running", "completed", "failed", "crashed", "cancelled"]
"""How a submitted flow run is doing; crashed: its process died."""
VARIABLE_NAME = re.compile(r"[a-z0-9_-]+")
VARIABLE_LIMIT = 5000


class Orchestrator:
    """Runs stages as plain calls, keeps pointers in a JSON file, and shows nothing.

    The contract, which `PrefectOrchestrator` fulfils as well (one test suite runs for both):

    - `flow` and `task` call their work with exactly the arguments given, in this thread, and
      return its very result or raise its very exception; interruptions pass through.
    - A failed task runs again only if its failure may pass (`worth_retrying`).
    - A pointer that was put reads back, also in later processes; the later one wins, and pointers
      that are put at the same time are all kept. What Prefect could not hold is refused by both.
    - `markdown`, `table`, `link`, `progress` and `emit` never raise: a stage does not fail
      because a page cannot be written.
    """

    def __init__(self, home: Home) -> None:
        self.home = home

    def flow(
        self,
        name: str,
        story: Callable[..., T],
        *args: Any,
        parameters: Mapping[str, Any] | None = None,
        title: str | None = None,
        **kwargs: Any,
    ) -> T:
        """Run a stage.

        Args:
            parameters: settings that its page shows; dataset and experiment become tags.
            title: name of this run on the page.
        """
        return story(*args, **kwargs)

    @contextmanager
    def on_page(self, scope: str, tags: Sequence[str]) -> Iterator[None]:
        """Name and tag a deployed flow run for the length of a block, and show log lines there."""
        yield

    def task(
        self,
        name: str,
        work: Callable[..., T],
        *args: Any,
        retries: int = 0,
        retry_delay_s: float = 2.0,
        key: str | None = None,
        limit_s: float | None = None,
        **kwargs: Any,
    ) -> T:
        """Run one coarse step of a stage.

        Args:
            retries: how often it runs again, after waits that double.
            retry_delay_s: the first wait, in seconds.
            key: content key of work that is a pure function of it; Prefect caches its result.
            limit_s: seconds after which it fails and is not run again.
        """
        for delay in [*delays(retries, retry_delay_s), None]:
            try:
                with within(limit_s, name):
                    return work(*args, **kwargs)
            except Exception as error:
                if delay is None or not worth_retrying(error):
                    raise
                log.warning("%s failed and is tried again in %g s: %s", name, delay, error)
                time.sleep(delay)
        raise AssertionError

    def markdown(self, key: str, text: str) -> None:
        """Show a text on the page of the current flow."""

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str = "") -> None:
        """Show a table on the page of the current flow."""

    def link(self, key: str, url: str, text: str = "") -> None:
        """Show a link on the page of the current flow."""

    def progress(self, key: str, description: str = "") -> Callable[[float], None]:
        """A function that shows the part that is done, from 0 to 1."""
        return lambda fraction: None

    def submit(
        self, deployment: str, parameters: Mapping[str, Any], title: str | None = None
    ) -> str:
        """Start a flow run of a deployment on its work pool; returns the id of the flow run.

        Raises:
            OrchestrationError: no server that workers could know, or no such deployment.
        """
        raise OrchestrationError(
            f"The deployment {deployment!r} needs Prefect, which PREFECT_DISABLED turns off.",
            remedy="unset PREFECT_DISABLED, or leave out what asks for a work pool",
        )

    # Without Prefect these raise, so there is never a flow run for the next three.

    def deployments(self, flow: str) -> dict[str, str]:
        """The deployments of a flow: `flow/name` -> work pool.

        Raises:
            OrchestrationError: no server that workers could ask.
        """
        return {self.submit(flow, {}): ""}

    def page_of(self, run_id: str) -> str:
        """Address of the page of a flow run."""
        raise NotImplementedError

    def state(self, run_id: str) -> FlowState:
        """The state of a submitted flow run."""
        raise NotImplementedError

    def cancel(self, run_id: str, *, lost: bool = False) -> None:
        """Ask the worker to end a submitted flow run; of a lost worker, end it as crashed."""
        raise NotImplementedError

    def get(self, name: str) -> Pointer | None:
        """The pointer published under a name."""
        found: Pointer | None = self._pointers().get(name)
        return found

    def put(self, name: str, value: Pointer) -> None:
        """Publish a pointer under a name, in place of an older one.

        Raises:
            OrchestrationError: a Prefect Variable could not have this name or value.
        """
        refuse_unfit(name, value)
        with lock(self.home.root / "pointers.lock", what="publish a pointer", wait=True):
            files.write_json(self.home.pointers, {**self._pointers(), name: value})

    def emit(self, event: str, resource: str, payload: Mapping[str, Any]) -> None:
        """Send an event to those who listen."""

    def page(self, kind: Literal["live", "kept"] = "kept") -> str | None:
        """Address of the current flow's page: while it runs, or later with `minivess ui`."""
        return None

    def settle(self) -> list[str]:
        """End flow runs whose process died; returns their ids."""
        return []

    def _pointers(self) -> dict[str, Pointer]:
        try:
            found: dict[str, Pointer] = files.read_json(self.home.pointers)
        except FileNotFoundError:
            return {}
        except ValueError:
            # A pointer is a copy of what MLflow holds; it is published again.
            log.warning("%s is not JSON, so it is written again", self.home.pointers)
            return {}
        return found


def worth_retrying(error: BaseException) -> bool:
    """Whether a failure may pass: unexpected ones, and a store or remote that does not answer."""
    return isinstance(error, Exception) and (
        isinstance(error, StoreError | RemoteError) or not isinstance(error, MinivessError)
    )


def delays(retries: int, first_s: float) -> list[float]:
    """Seconds to wait before each retry, doubling."""
    return [first_s * 2**attempt for attempt in range(retries)]


class TimeUp(BaseException):
    """The time of a step is over; libraries that catch Exception let it pass."""


@contextmanager
def within(limit_s: float | None, name: str, setting: str = "data.time_limit_s") -> Iterator[None]:
    """Interrupt the block after `limit_s`; only the main thread can be interrupted.

    Args:
        setting: the setting that gives the limit, in seconds.

    Raises:
        OrchestrationError: the time is over.
    """
    if limit_s is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    except TimeUp:
        raise OrchestrationError(
            f"The step {name!r} took longer than {limit_s:g} s, so it was stopped.",
            remedy=f"{setting}={2 * limit_s:g}, after a look at what made it slow",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refuse_unfit(name: str, value: Pointer) -> None:
    """Refuse a name or value that Prefect Variables do not take.

    Raises:
        OrchestrationError: the name has other characters, or the value is too long.
    """
    size = len(json.dumps(value, allow_nan=False))
    if not VARIABLE_NAME.fullmatch(name):
        raise OrchestrationError(
            f"A pointer cannot be named {name!r}.",
            remedy="use lower-case letters, digits, - and _ only",
        )
    if size > VARIABLE_LIMIT:
        raise OrchestrationError(
            f"The pointer {name!r} has {size} characters; Prefect Variables hold {VARIABLE_LIMIT}.",
            remedy="split the grid over several experiments: name=FIRST, then name=SECOND",
        )
