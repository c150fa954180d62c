"""Lineage: from a model, deployment or any other run back to the data."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minivess import names
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.runtime import templates
from minivess.tracking.store import registry
from minivess.tracking.store.store import Store

MACHINE = ("hostname", "cpu_model", "gpu_model")
TEMPLATE = Path(__file__).with_name("lineage.html.j2")
RUN_ID = re.compile(r"[0-9a-f]{32}")
UPSTREAM = {
    names.DEPLOYMENT: names.UPSTREAM_ANALYSIS,
    names.ENSEMBLE: names.UPSTREAM_TRAINING,
    names.ANALYSIS: names.UPSTREAM_TRAINING,
    names.FAMILY: names.UPSTREAM_PROFILE,
}


def walk(store: Store, ref: str) -> list[RunRecord]:
    """Return the runs from `ref` up to the profile, whose param `data_dataset_hash` ends the chain.

    Args:
        ref: a run id or a model: `name`, `name@alias`, `name/version`.

    Raises:
        StoreError: a link is missing, or two runs of the chain belong to different data.
    """
    record = store.get(start(store, ref))
    chain = [record]
    while record.tags.get(names.KIND) != names.PROFILE:
        record = store.get(_above(record))
        if record in chain:
            raise StoreError(
                f"The lineage of {ref} runs in a circle at run {record.run_id}.",
                remedy="its upstream params were edited; run the flows again",
            )
        chain.append(record)
    _require_one_dataset(chain)
    return chain


def start(store: Store, ref: str) -> str:
    """Return the run of a reference; a bare model name means its production or champion alias.

    The chain of a model in production starts at its deployment.
    """
    ref = ref.removeprefix("models:/").removeprefix("runs:/")
    if RUN_ID.fullmatch(ref.split("/")[0]):
        return ref.split("/")[0]
    name, at, alias = ref.partition("@")
    if at:
        return _aliased(store, name, alias)
    name, slash, number = ref.rpartition("/")
    if slash and number.isdigit():
        return registry.by_version(store, name, number).run_id
    return _preferred(store, ref)


def page(chain: Sequence[RunRecord], links: Mapping[str, str], *, served: str = "") -> str:
    """Return the chain as one self-contained HTML page.

    Args:
        links: run id -> address of its page.
        served: the served model, shown before the first run.
    """
    return templates.render(
        TEMPLATE,
        title=f"Lineage of {served or chain[0].name}",
        served=served,
        runs=[_facts(record, links.get(record.run_id, "")) for record in chain],
        dataset=chain[-1].params.get(names.DATASET_NAME, ""),
        data_hash=chain[-1].params.get(names.DATASET_HASH, ""),
    )


def picture(chain: Sequence[RunRecord], links: Mapping[str, str], *, served: str) -> str:
    """Return the chain from the data to the served model as Markdown: a Mermaid chart, and links.

    Args:
        links: run id -> address of its page.
        served: the served model, the last box.
    """
    last = chain[-1].params
    boxes = [
        f"{last[names.DATASET_NAME]} {last[names.DATASET_HASH]}",
        *(_title(record) for record in reversed(chain)),
        served,
    ]
    drawn = [f'  n{number}["{html.escape(box)}"]' for number, box in enumerate(boxes)]
    arrows = [f"  n{number} --> n{number + 1}" for number in range(len(boxes) - 1)]
    pages = [f"- [{_title(one)}]({links[one.run_id]})" for one in reversed(chain)]
    return "\n".join(["```mermaid", "graph TD", *drawn, *arrows, "```", "", *pages])


def _title(record: RunRecord) -> str:
    return f"{record.tags.get(names.KIND, 'run')}: {record.name}"


def _facts(record: RunRecord, link: str) -> dict[str, Any]:
    """When a run began, and by which code on which machine."""
    when = datetime.fromtimestamp(record.start_time / 1000, UTC).isoformat(" ", "minutes")
    dirty = " with changes" if record.params.get("sys_git_dirty") == "True" else ""
    facts = {
        "run": record.run_id,
        "ended": f"{record.status}, started {when}",
        "code": f"{record.params.get('sys_git_commit', 'unknown')}{dirty}",
        "machine": " ".join(record.params.get(f"sys_{name}", "") for name in MACHINE).strip(),
        "content key": record.tags.get(names.KEY, ""),
        "note": record.tags.get(names.NOTE, ""),
    }
    return {"name": _title(record), "link": link, "facts": facts}


def _preferred(store: Store, name: str) -> str:
    for alias in (names.PRODUCTION_ALIAS, names.CHAMPION_ALIAS):
        try:
            return _aliased(store, name, alias)
        except StoreError as absent:
            last = absent
    found = registry.versions(store, name)
    if found:
        return found[0].run_id
    if name in registry.models(store):
        raise StoreError(
            f"The model {name!r} has no version any more.",
            remedy=f"run `minivess analyse {shlex.quote(f'name={name}')}`, which registers what "
            "was trained",
        )
    raise StoreError(
        f"{name!r} is neither a run id nor a registered model.",
        remedy="give a run id of 32 digits, or a model as name, name@alias or name/version",
    ) from last


def _aliased(store: Store, name: str, alias: str) -> str:
    run_id = registry.by_alias(store, name, alias).run_id
    if alias == names.PRODUCTION_ALIAS:
        deployed = store.latest(kind=names.DEPLOYMENT, params={names.UPSTREAM_TRAINING: run_id})
        if deployed is not None:
            return deployed.run_id
    return run_id


def _above(record: RunRecord) -> str:
    kind = record.tags.get(names.KIND, "")
    if kind == names.CELL:
        where, found = f"tag {names.PARENT}", record.tags.get(names.PARENT)
    else:
        where = f"param {UPSTREAM.get(kind, names.UPSTREAM_PROFILE)}"
        found = record.params.get(UPSTREAM.get(kind, names.UPSTREAM_PROFILE))
    if not found:
        raise StoreError(
            f"The lineage breaks at run {record.run_id} ({record.name}): it has no {where}.",
            remedy="run that flow again; every run of this release carries it",
        )
    return found


def _require_one_dataset(chain: list[RunRecord]) -> None:
    wanted = chain[-1].params.get(names.DATASET_HASH)
    for record in chain:
        found = record.params.get(names.DATASET_HASH)
        if found is None or found != wanted:
            raise StoreError(
                f"Run {record.run_id} ({record.name}) says {names.DATASET_HASH}={found}, and its "
                f"profile {chain[-1].run_id} says {wanted}.",
                remedy="run the flows again on one version of the data",
            )
