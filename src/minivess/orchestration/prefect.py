"""Orchestrator over Prefect: flows, tasks, artifacts, variables and events.

Prefect receives neither arguments nor results of a stage, only the settings to show: it must not
copy, validate or keep configurations, stores and arrays.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast
from uuid import UUID

from minivess.config import Environment
from minivess.errors import OrchestrationError, PrefectUnreachable
from minivess.home import Home
from minivess.orchestration import flow_runs, prefect_client, prefect_server
from minivess.orchestration.base import (
    FlowState,
    Orchestrator,
    Pointer,
    delays,
    refuse_unfit,
    within,
    worth_retrying,
)
from minivess.runtime.servers import HOST, answers
from minivess.text import dashed
from minivess.tracking.run.encoding import plain_json

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.context import FlowRunContext

log = logging.getLogger(__name__)

T = TypeVar("T")

TAGS = ("dataset", "experiment")
"""Parameters of a flow that become tags of its runs."""
CREATION_RACES = 5
PROGRESS_INTERVAL_S = 1.0
# Each call to a server that is gone waits for its retries, so pages rest after a failure.
SILENCE_S = 300.0


class PrefectOrchestrator(Orchestrator):
    """Stages as Prefect flows, on a server that is found or started with the first of them."""

    def __init__(self, home: Home, env: Environment, stack: ExitStack) -> None:
        super().__init__(home)
        self._env, self._stack = env, stack
        self._folder = prefect_server.folder_of(home, env)
        self._api: str | None = None
        self._silent_until = 0.0
        self._settled: list[str] = []

    def flow(
        self,
        name: str,
        story: Callable[..., T],
        *args: Any,
        parameters: Mapping[str, Any] | None = None,
        title: str | None = None,
        **kwargs: Any,
    ) -> T:
        """Run a stage as a Prefect flow; within a deployed flow of this name, as part of it."""
        shown = plain_json(parameters or {})
        labels = [shown[key] for key in TAGS if shown.get(key)]
        current = flow_run()
        if current is not None and current.flow is not None and current.flow.name == name:
            self._label(title or name, labels)
            return self._part(lambda: story(*args, **kwargs))
        self._connect()
        from prefect import Flow, tags

        call = EngineCall(lambda: story(*args, **kwargs))

        def run(settings: dict[str, Any]) -> Any:
            call.record = self._record()
            return flow_runs.carry_out(call.run, call.record, within_worker=False)

        made = Flow(
            run, name=name, flow_run_name=lambda: title or name, validate_parameters=False,
            persist_result=False,
        )  # fmt: skip
        with tags(*labels):
            return run_in_engine(call, lambda: made(shown), name)

    @contextmanager
    def on_page(self, scope: str, tags: Sequence[str]) -> Iterator[None]:
        """Name and tag the flow run that a worker carries out, and show log lines on its page."""
        current = flow_run()
        if current is None or current.flow is None:
            yield
            return
        self._label(f"{current.flow.name} · {scope}", tags)
        with prefect_client.logs_on_page():
            yield

    def _label(self, title: str, tags: Sequence[str]) -> None:

        current = flow_run()
        assert current is not None
        assert current.flow_run is not None
        made = current.flow_run
        try:
            with prefect_client.asking() as client:
                client.update_flow_run(made.id, name=title, tags=sorted({*made.tags, *tags}))
        except prefect_client.failures() as error:
            log.warning("Prefect's page does not show the name %r: %s", title, error)

    def _settle(self) -> None:
        self._settled += flow_runs.settle(self._folder, self._env.prefect_api_url)

    def _part(self, story: Callable[[], T]) -> T:
        """Run the stage of a deployed flow in the worker's flow run."""
        prefect_client.outlive_worker()
        self._settle()
        # The file stays: this process ends the flow run later, when the server may be gone.
        return cast("T", flow_runs.carry_out(story, self._record(), within_worker=True))

    def _record(self) -> Path:
        current = flow_run()
        assert current is not None
        assert current.flow_run is not None
        return flow_runs.begin(self._folder, current.flow_run.id, self._env.prefect_api_url)

    def settle(self) -> list[str]:
        """End flow runs of this home whose process died; starts a server only if there are any."""
        if flow_runs.left(self._folder):
            self._connect()
        return self._settled

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
        """Run a step as a Prefect task in this thread; outside of a flow, as a plain call."""
        if flow_run() is None:
            how: Any = {"retries": retries, "retry_delay_s": retry_delay_s, "limit_s": limit_s}
            return super().task(name, work, *args, **how, **kwargs)
        from prefect import Task
        from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy

        def limited() -> T:
            with within(limit_s, name):
                return work(*args, **kwargs)

        call, cached = EngineCall(limited), key is not None
        made = Task(
            call.run_cached if cached else call.run,
            name=name,
            retries=retries,
            retry_delay_seconds=delays(retries, retry_delay_s),
            retry_condition_fn=lambda *_: call.may_retry(name),
            cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda *_: key) if cached else NO_CACHE,
            persist_result=cached,
            result_serializer="pickle" if cached else None,
        )
        return run_in_engine(call, made, name)

    def markdown(self, key: str, text: str) -> None:
        """Show a text on the page of the current run."""
        self._show("create_markdown_artifact", text, key=dashed(key))

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str = "") -> None:
        """Show a table on the page of the current run."""
        shown = [plain_json(row) for row in rows]
        self._show("create_table_artifact", shown, key=dashed(key), description=description)

    def link(self, key: str, url: str, text: str = "") -> None:
        """Show a link on the page of the current run."""
        self._show("create_link_artifact", url, text or None, key=dashed(key))

    def progress(self, key: str, description: str = "") -> Callable[[float], None]:
        """A function that moves a bar on the page of the current run, at most once a second."""
        made = self._show("create_progress_artifact", 0.0, key=dashed(key), description=description)
        shown_at = time.monotonic()

        def move(fraction: float) -> None:
            nonlocal shown_at
            now = time.monotonic()
            if made is None or (fraction < 1.0 and now - shown_at < PROGRESS_INTERVAL_S):
                return
            shown_at = now
            self._show("update_progress_artifact", made, 100.0 * min(max(fraction, 0.0), 1.0))

        return move

    def submit(
        self, deployment: str, parameters: Mapping[str, Any], title: str | None = None
    ) -> str:
        """Start a run of a deployment on its work pool; returns its id.

        Raises:
            OrchestrationError: no server that workers could know, or no such deployment.
        """
        prefect_server.require(self.home, self._env, deployment)
        self._connect()
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound

        try:
            how: Any = {"parameters": plain_json(parameters), "flow_run_name": title}
            made = _asked(lambda: run_deployment(deployment, timeout=0, **how))
        except ObjectNotFound as error:
            raise OrchestrationError(
                f"Prefect knows no deployment {deployment!r}.",
                remedy="minivess up, which registers those of deployments/prefect.yaml",
            ) from error
        return str(cast("FlowRun", made).id)

    def deployments(self, flow: str) -> dict[str, str]:
        """The deployments of a flow: `flow/name` -> work pool."""
        prefect_server.require(self.home, self._env, flow)
        self._connect()
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName

        of_flow = FlowFilter(name=FlowFilterName(any_=[flow]))
        with prefect_client.asking() as client:
            found = _asked(lambda: client.read_deployments(flow_filter=of_flow))
        return {f"{flow}/{one.name}": one.work_pool_name or "" for one in found}

    def page_of(self, run_id: str) -> str:
        """Address of the page of a flow run."""
        return f"{(self._api or '').removesuffix('/api')}/runs/flow-run/{run_id}"

    def state(self, run_id: str) -> FlowState:
        """How a submitted run is doing."""

        with prefect_client.asking() as client:
            found = _asked(lambda: client.read_flow_run(UUID(run_id))).state
        if found is None or not found.is_final():
            return "running"
        return cast("FlowState", found.type.value.lower())

    def cancel(self, run_id: str, *, lost: bool = False) -> None:
        """Ask the worker to end a submitted run; of a lost worker, end it as crashed."""
        from prefect.states import Cancelling

        new = flow_runs.state("CRASHED", "nothing is heard of its worker") if lost else Cancelling()
        with prefect_client.asking() as client:
            _asked(lambda: client.set_flow_run_state(UUID(run_id), new, force=lost))

    def get(self, name: str) -> Pointer | None:
        """The Prefect Variable of this name; a private server is not started for it."""
        if self._api is None and flow_run() is None and not self._env.prefect_api_url:
            found = prefect_server.stored_variable(self.home, self._env, name)
        else:
            self._connect()
            from prefect.variables import Variable

            found = _asked(lambda: Variable.get(name))
        return found if isinstance(found, dict) else None

    def put(self, name: str, value: Pointer) -> None:
        """Set the Prefect Variable of this name."""
        refuse_unfit(name, value)
        self._connect()
        from prefect.exceptions import ObjectAlreadyExists
        from prefect.variables import Variable

        for left in range(CREATION_RACES, -1, -1):
            try:
                _asked(lambda: Variable.set(name, value, overwrite=True))
                return
            except ObjectAlreadyExists:
                # Another process created it between our look and our write.
                if not left:
                    raise

    def emit(self, event: str, resource: str, payload: Mapping[str, Any]) -> None:
        """Send an event; no private server is started for it, since it would have no listener."""
        if self._api is None and flow_run() is None:
            if not self._env.prefect_api_url and prefect_server.shared(self._folder) is None:
                return
            self._connect()
        from prefect.events import emit_event

        emit_event(event, {"prefect.resource.id": resource}, payload=plain_json(payload))

    def page(self, kind: Literal["live", "kept"] = "kept") -> str | None:
        """Address of the current flow run's page; a private server's port is gone afterwards."""
        current = flow_run()
        if current is None or current.flow_run is None:
            return None
        api = self._env.prefect_api_url or self._api or ""
        if kind == "kept" and not self._env.prefect_api_url:
            there = prefect_server.shared(self._folder)
            api = there.api if there else f"http://{HOST}:{prefect_server.PREFECT_PORT}/api"
        return f"{api.removesuffix('/api')}/runs/flow-run/{current.flow_run.id}"

    def _connect(self) -> None:
        """Find or start the server; a deployed flow has its server already.

        Where `minivess ui` was closed while its server was in use, another server is started.
        """
        if flow_run() is not None:
            return
        if self._api is not None:
            # Asked twice: a busy machine may once take longer than the limit.
            health = f"{self._api}/health"
            if self._env.prefect_api_url or answers(health) or answers(health):
                return
            log.warning("Prefect's server at %s is gone; another one takes over", self._api)
            self._stack.close()
        self._api = self._stack.enter_context(prefect_client.client(self.home, self._env))
        self._settle()

    def _show(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of prefect.artifacts; log a failure instead of raising it."""
        if flow_run() is None or time.monotonic() < self._silent_until:
            return None
        import prefect.artifacts

        try:
            return getattr(prefect.artifacts, function)(*args, **kwargs)
        except prefect_client.failures() as error:
            log.warning("Prefect's page could not be written to: %s", error)
            self._silent_until = time.monotonic() + SILENCE_S
            return None


class EngineCall(Generic[T]):
    """A callable that Prefect's engine runs; keeps its own result or exception."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.started = False
        self.results: list[T] = []
        self.error: BaseException | None = None
        self.record: Path | None = None

    def run(self) -> None:
        """Run it, called by Prefect, which sees neither arguments nor result."""
        self.started, self.error = True, None
        try:
            self.results = [self.work()]
        except BaseException as error:
            self.error = error
            raise

    def run_cached(self) -> T:
        """Run it where Prefect keeps the result."""
        self.run()
        return self.results[0]

    def may_retry(self, name: str) -> bool:
        """Whether the failure may pass; logs it, as the task then runs again."""
        again = self.error is not None and worth_retrying(self.error)
        if again:
            log.warning("%s failed and is tried again: %s", name, self.error)
        return again


def run_in_engine(call: EngineCall[T], engine: Callable[[], object], name: str) -> T:
    """Let Prefect's `engine` run a call, then return its result or raise its very exception.

    If it never started and nothing was raised, Prefect returned a cached result.

    Raises:
        OrchestrationError: Prefect could not start it.
    """
    try:
        cached = engine()
    except Exception as failure:
        if failure is call.error:
            raise
        if call.error is not None:
            raise call.error from None
        if not call.started:
            raise OrchestrationError(
                f"Prefect could not start {name!r}: {failure}",
                remedy="run the same command again, or without Prefect: PREFECT_DISABLED=1",
            ) from failure
        log.warning("Prefect was not informed that %r is done: %s", name, failure)
        return call.results[0]
    if call.error is not None:
        raise call.error
    if call.record is not None:
        call.record.unlink()
    return call.results[0] if call.started else cast(T, cached)


def flow_run() -> FlowRunContext | None:
    """The Prefect flow run that this code is part of; looking does not import Prefect."""
    if "prefect.context" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    return FlowRunContext.get()


def _asked(question: Callable[[], T]) -> T:
    import httpx

    try:
        return question()
    except (httpx.HTTPError, OSError) as error:
        raise PrefectUnreachable(
            f"Prefect's server does not answer any more: {error}",
            remedy="run `minivess settle`, which writes all pointers again from MLflow",
        ) from error
