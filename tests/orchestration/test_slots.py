"""Cells of several hosts share the slots of a limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from minivess.config import Environment
from minivess.errors import OrchestrationError
from minivess.home import Home
from minivess.orchestration import prefect_client, slots
from minivess.runtime.servers import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def client(served: tuple[Home, Server]) -> Iterator[SyncPrefectClient]:
    """A server whose limit `gpus` has one slot."""
    with prefect_client.client(served[0], Environment()), get_client(sync_client=True) as made:
        made.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpus", limit=1))
        yield made


def test_a_cell_waits_for_a_slot_and_says_so(
    client: SyncPrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=slots.__name__)
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with slots.held("gpus", what="first"):
            taken.set()
            free.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(60)
    threading.Timer(3, free.set).start()
    with slots.held("gpus", what="second"):
        assert free.is_set()
        # As a server that was started again, which knows no slot: that ends nobody.
        client.request("DELETE", "/v2/concurrency_limits/{id_or_name}",
                       path_params={"id_or_name": "gpus"})  # fmt: skip
    holder.join()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "first has a slot of gpus", "second waits for a free slot of gpus",
        "second has a slot of gpus",
    ]  # fmt: skip
    with pytest.raises(OrchestrationError) as refused, slots.held("gpus", what="third"):
        pass
    assert "prefect gcl create gpus" in str(refused.value.remedy)
