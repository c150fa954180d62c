"""Cells side by side and the threads of each, so that a grid on a CPU ends soonest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from minivess import config
from minivess.compute import layout, plan
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Network

HOUR = 3600.0


@pytest.fixture
def laid_out(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> Callable[..., ComputePlan]:
    """The layout of a grid whose cells take so long with one thread, with words as users type."""

    def make(
        *words: str, cells: int = 4, cell_s: float = HOUR, gain: float = 1.2, **machine: Any
    ) -> ComputePlan:
        settings, profile = config.load([], list(words)), make_profile([(48, 48, 8)] * 4)
        hardware = make_machine(**{"cores": 2, **machine})
        chosen = plan.resolve(
            settings, make_network(profile.min_shape), profile, hardware, n_train=3
        )
        most = layout.most_cells(settings, chosen, hardware, cells=cells, cached_gb=0.1)
        counts = layout.thread_counts(chosen, hardware, most[0])

        def seconds(one: ComputePlan) -> float:
            return cell_s / gain ** (one.threads.bit_length() - 1)

        return layout.fastest(chosen, hardware, most, counts, seconds, cells=cells)

    return make


def sizes(found: ComputePlan) -> tuple[int, int]:
    return found.parallel_cells, found.threads


def test_each_core_gets_a_cell_of_one_thread(laid_out: Callable[..., ComputePlan]) -> None:
    found = laid_out()
    assert sizes(found) == (2, 1)
    choice = found.choices["parallel_cells"]
    assert (choice.bound, choice.override) == ("cores", "training.parallel_cells=2")
    assert "one after the other" in choice.reason
    assert found.num_workers == 0


def test_cores_that_cells_leave_idle_go_to_threads_where_these_gain(
    laid_out: Callable[..., ComputePlan],
) -> None:
    assert sizes(laid_out(cells=2, cores=8)) == (2, 4)
    assert sizes(laid_out(cells=2, cores=8, gain=1.02)) == (2, 1)
    assert sizes(laid_out(cells=1, cores=2)) == (1, 2)


@pytest.mark.parametrize(("words", "machine", "expected"), [
    ((), {"cell_s": 3.0}, (1, 1)),  # the start of a process takes longer
    ((), {"omp_threads": 2}, (1, 2)),
    (("training.threads=2",), {}, (1, 2)),
    (("training.threads=2",), {"cores": 4}, (2, 2)),
    (("training.parallel_cells=1",), {}, (1, 2)),
    (("training.parallel_cells=3",), {"cores": 1}, (3, 1)),
    (("training.processes_per_cell=2",), {"cores": 1}, (1, 1)),
    ((), {"cores": 1}, (1, 1)),
    ((), {"ram_available_gb": 1.2}, (1, 2)),  # memory for one cell
])  # fmt: skip
def test_what_is_stated_and_what_there_is_limit_the_layout(
    laid_out: Callable[..., ComputePlan],
    words: tuple[str, ...],
    machine: dict[str, Any],
    expected: tuple[int, int],
) -> None:
    assert sizes(laid_out(*words, **machine)) == expected


def test_the_last_round_of_cells_counts(laid_out: Callable[..., ComputePlan]) -> None:
    """Three cells two at a time take two rounds, which threads that gain much can beat."""
    assert sizes(laid_out(cells=3)) == (2, 1)
    assert layout.grid_s(laid_out(cells=3), HOUR, 3) == pytest.approx(
        2 * (HOUR * layout.CROWDED + layout.START_S)
    )


def test_a_stated_number_of_loaders_stays(laid_out: Callable[..., ComputePlan]) -> None:
    found = laid_out("training.num_workers=1")
    assert (found.num_workers, found.parallel_cells) == (1, 2)
