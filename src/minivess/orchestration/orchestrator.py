"""How stories run: as Prefect flows and tasks, or as plain Python with PREFECT_DISABLED.

The choice is made when a story is called, not when a module is imported, and Prefect itself is
imported only then: a command that finds everything reused starts no server. What a story returns
or raises comes out of it unchanged; Prefect only watches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from minivess.config import Environment
from minivess.home import Home
from minivess.orchestration.base import Orchestrator


@contextmanager
def use(home: Home, env: Environment) -> Iterator[Orchestrator]:
    """The orchestrator of one command; what it starts is ended on leaving."""
    if env.prefect_disabled:
        yield Orchestrator(home)
        return
    from minivess.orchestration.prefect import PrefectOrchestrator

    with ExitStack() as stack:
        yield PrefectOrchestrator(home, env, stack)
