from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from minivess.analysis import workspace
from minivess.errors import StoreError, UsageError

ROWS: dict[str, Any] = {
    "runs": [
        {"run_id": "a", "kind": "family", "name": "dynunet_dice_ce", "start_time": 1_000_000,
         "end_time": 3_000_000, "experiment": "tubes", "dataset": "tubes", "status": "FINISHED"},
        {"run_id": "b", "kind": "family", "name": "dynunet_cbdice", "start_time": 2_000_000,
         "end_time": 3_000_000, "experiment": "tubes", "dataset": "tubes", "status": "FINISHED"},
    ],
    "params": [
        {"run_id": "a", "key": "loss_name", "value": "dice_ce"},
        {"run_id": "b", "key": "loss_name", "value": "cbdice"},
        {"run_id": "a", "key": "seed", "value": "42"},
        {"run_id": "b", "key": "seed", "value": "42"},
    ],
    "metrics": [{"run_id": "a", "key": "val_dice", "value": 0.5, "step": 3, "time": 5}],
    "volumes": [
        {"run_id": "a", "name": "dynunet_dice_ce", "case": "v1", "fold": 0, "dice": 0.5,
         "masd": None, "dice_class2": 0.25},
    ],
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    workspace.refresh(tmp_path / "workspace.duckdb", ROWS)
    return tmp_path / "workspace.duckdb"


def test_wide_rows_of_volumes_become_one_row_for_each_metric(path):
    rows = workspace.query(path, "SELECT metric, value FROM volumes ORDER BY metric")
    assert [tuple(row.values()) for row in rows] == [
        ("dice", 0.5), ("dice_class2", 0.25), ("masd", None),
    ]  # fmt: skip


def test_runs_given_again_replace_what_was_known_of_them(path):
    again = {"runs": [{"run_id": "a", "status": "FINISHED"}], "metrics": []}
    workspace.refresh(path, again)
    assert workspace.query(path, "SELECT count(*) AS n FROM runs") == [{"n": 2}]
    assert workspace.query(path, "SELECT status FROM runs WHERE run_id = 'a'") == [
        {"status": "FINISHED"}
    ]
    assert workspace.query(path, "FROM metrics") == []


def test_the_same_rows_twice_change_nothing(path):
    before = [workspace.query(path, f"FROM {table} ORDER BY ALL") for table in workspace.TABLES]
    workspace.refresh(path, ROWS)
    after = [workspace.query(path, f"FROM {table} ORDER BY ALL") for table in workspace.TABLES]
    assert before == after


@pytest.mark.parametrize("title", workspace.EXAMPLES)
def test_each_example_query_runs(path, title):
    assert isinstance(workspace.query(path, workspace.EXAMPLES[title]), list)


def test_the_example_finds_what_differs_between_trainings(path):
    rows = workspace.query(path, workspace.EXAMPLES["what differs between trainings"])
    assert [row["key"] for row in rows] == ["loss_name"]


PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
DOCUMENTED = [
    sql for page in PAGES for sql in re.findall(r'^    just sql "(.+)"$', page.read_text(), re.M)
]


@pytest.fixture
def several(tmp_path):
    """Two experiments on two datasets, analysed again and again; folds judge the volumes, too."""
    runs, volumes, metrics = [], [], []
    for start, (run_id, experiment, kind, status, dice) in enumerate([
        ("t1", "tubes", "cell", "FINISHED", 0.1), ("a1", "tubes", "analysis", "FINISHED", 0.2),
        ("a2", "tubes", "analysis", "FINISHED", 0.5), ("a3", "tubes", "analysis", "FAILED", 0.3),
        ("b1", "brains", "analysis", "FINISHED", 0.9),
    ]):  # fmt: skip
        runs.append({"run_id": run_id, "experiment": experiment, "dataset": f"of {experiment}",
                     "kind": kind, "status": status, "start_time": 1000 * start})  # fmt: skip
        volumes += [{"run_id": run_id, "name": "dynunet", "case": case, "dice": dice, "masd": masd}
                    for case, masd in (("v1", 2.0), ("v2", None))]  # fmt: skip
        metrics.append({"run_id": run_id, "key": "test_dice", "value": dice, "step": 0, "time": 1})
    path = tmp_path / "several.duckdb"
    workspace.refresh(path, {"runs": runs, "volumes": volumes, "metrics": metrics})
    return path


@pytest.mark.parametrize("sql", [*workspace.EXAMPLES.values(), *DOCUMENTED])
def test_each_example_gives_the_figures_of_one_dataset_and_its_latest_analysis(several, sql):
    rows = workspace.query(several, sql)
    found = [
        (row["experiment"], row["dataset"], row["mean"])
        for row in rows
        if row.get("metric") == "dice"
    ]
    assert found in ([], [("brains", "of brains", 0.9), ("tubes", "of tubes", 0.5)])
    assert all({"experiment"} <= set(row) for row in rows)


def test_a_view_holds_one_analysis_of_each_experiment_and_counts_what_is_undefined(several):
    rows = workspace.query(several, workspace.EXAMPLES["families by their mean over volumes"])
    of_masd = {row["experiment"]: row for row in rows if row["metric"] == "masd"}
    assert (of_masd["tubes"]["n"], of_masd["tubes"]["undefined"]) == (1, 1)
    rows = workspace.query(several, workspace.EXAMPLES["champions on their held-out test sets"])
    assert [(row["experiment"], row["value"]) for row in rows] == [("brains", 0.9), ("tubes", 0.5)]


def test_rows_that_are_kept_follow_an_experiment_to_its_new_name(several):
    runs = workspace.query(several, "FROM runs")
    renamed = [row | {"experiment": row["experiment"].replace("tubes", "pipes")} for row in runs]
    workspace.refresh(several, {"runs": renamed}, unchanged={row["run_id"] for row in runs})
    found = workspace.query(several, "SELECT DISTINCT experiment FROM latest_volumes ORDER BY 1")
    assert [row["experiment"] for row in found] == ["brains", "pipes"]


def test_times_are_timestamps(path):
    rows = workspace.query(path, workspace.EXAMPLES["how long each kind of run takes"])
    assert [(row["kind"], row["n"], row["seconds"]) for row in rows] == [("family", 2, 1500.0)]


def test_a_refused_query_names_the_tables(path):
    with pytest.raises(UsageError, match="DuckDB rejected") as caught:
        workspace.query(path, "SELECT nothing FROM nowhere")
    assert "volumes(run_id" in caught.value.remedy


@pytest.mark.parametrize("sql", [
    "DELETE FROM runs", "INSERT INTO runs (run_id) VALUES ('c')", "SELECT 1; SELECT 2", "", "--",
    "CREATE TEMP TABLE t AS SELECT 1", "SET threads = 1", "INSTALL httpfs", "LOAD httpfs",
    "COPY runs TO '{folder}/out.csv'", "ATTACH '{folder}/other.db'", "SELEC 1",
    "EXPORT DATABASE '{folder}/all'", "FROM read_csv('{folder}/text.csv')",
])  # fmt: skip
def test_a_query_is_one_select_and_reads_no_other_file(path, sql, tmp_path):
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"DuckDB rejected the query[^\n]*\w") as refusal:
        workspace.query(path, sql.format(folder=tmp_path))
    assert "\n\n" not in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before


def test_columns_of_one_name_are_all_kept(path):
    rows = workspace.query(path, "SELECT a.run_id, b.run_id FROM runs a, runs b")
    assert {(row["run_id"], row["run_id_2"]) for row in rows} == {
        ("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"),
    }  # fmt: skip


def test_a_missing_workspace_says_what_makes_it(tmp_path):
    with pytest.raises(StoreError, match="no workspace") as caught:
        workspace.query(tmp_path / "none.duckdb", "FROM runs")
    assert "minivess experiment" in caught.value.remedy


def test_ended_runs_are_known_with_their_end(path, tmp_path):
    assert workspace.known(tmp_path / "none.duckdb") == {}
    workspace.refresh(path, {"runs": [{"run_id": "c", "start_time": 1_500_000}]})
    assert workspace.known(path) == {"a": 3_000_000, "b": 3_000_000}


def test_unchanged_runs_keep_their_metrics_and_runs_that_are_gone_leave(path):
    metrics = pa.table({"run_id": ["c"], "key": ["val_dice"], "value": [0.7], "step": [1],
                        "time": [9]})  # fmt: skip
    runs = [ROWS["runs"][0], {"run_id": "c", "end_time": 5}]
    rows = {"runs": runs, "params": ROWS["params"][:1], "metrics": metrics, "volumes": []}
    for _ in range(2):
        workspace.refresh(path, rows, unchanged={"a", "b"})
    assert {row["run_id"] for row in workspace.query(path, "FROM runs")} == {"a", "c"}
    found = workspace.query(path, "SELECT run_id, value FROM metrics ORDER BY run_id")
    assert [tuple(row.values()) for row in found] == [("a", 0.5), ("c", 0.7)]
    assert len(workspace.query(path, "FROM params")) == 1
    assert len(workspace.query(path, "FROM volumes")) == 3


def test_a_file_of_another_release_is_built_anew(tmp_path):
    path = tmp_path / "workspace.duckdb"
    path.write_bytes(b"not a database")
    assert workspace.known(path) == {}
    workspace.refresh(path, ROWS)
    assert len(workspace.query(path, "FROM runs")) == 2


def test_a_reader_keeps_the_file_that_it_opened(path):
    import duckdb

    with duckdb.connect(str(path), read_only=True) as reader:
        writer = threading.Thread(
            target=workspace.refresh, args=(path, {"runs": [{"run_id": "c"}]})
        )
        writer.start()
        writer.join()
        assert reader.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]


def run(run_id, kind, name, start, **more):
    return {
        "run_id": run_id, "kind": kind, "name": name, "start_time": start, "status": "FINISHED",
        "end_time": start + 60_000, "experiment": "tubes", "dataset": "tubes", **more,
    }  # fmt: skip


@pytest.fixture
def questions(tmp_path):
    rows = {
        "runs": [
            run("p", "profile", "tubes", 1),
            run("t1", "family", "net", 2),
            run("t2", "family", "net", 3),
            run("x", "trial", "trial_0", 4, parent_run_id="s"),
            run("a", "analysis", "tubes", 5),
        ],
        "params": [
            {"run_id": "t1", "key": "max_epochs", "value": "5"},
            {"run_id": "t2", "key": "max_epochs", "value": "9"},
            *({"run_id": one, "key": "seed", "value": "1"} for one in ("t1", "t2")),
            {"run_id": "a", "key": "upstream_training_run_id", "value": "t2"},
            {"run_id": "x", "key": "learning_rate", "value": "0.1"},
        ],
        "tags": [{"run_id": "a", "key": "champion_family", "value": "net"}],
        "metrics": [
            {"run_id": "x", "key": "dice", "value": value, "step": step, "time": 5}
            for step, value in enumerate((0.9, 0.4))
        ],
        "volumes": [
            {"run_id": "a", "name": name, "case": case, "dice": dice, "masd": None}
            for name, dices in (("net", (0.5, 0.7)), ("mean_all", (0.4, 0.9)))
            for case, dice in zip(("v1", "v2"), dices, strict=True)
        ],
        "properties": [
            {"run_id": "p", "case": "v1", "size_z": 5}, {"run_id": "p", "case": "v2", "size_z": 9},
        ],
        "comparisons": [{"run_id": "a", "name": "net", "against": "mean_all", "p_holm": 0.5}],
    }  # fmt: skip
    path = tmp_path / "questions.duckdb"
    workspace.refresh(path, rows, source="first")
    return path


@pytest.mark.parametrize(("sql", "expected"), [
    ("SELECT name, dice, n, masd_undefined, champion FROM leaderboard ORDER BY dice",
     [("net", 0.6, 2, 2, True), ("mean_all", 0.65, 2, 2, False)]),
    ('SELECT "case", dice, lowest, size_z FROM hard_volumes',
     [("v1", 0.45, 0.4, 5), ("v2", 0.8, 0.7, 9)]),
    ('SELECT name, key, "before", "after" FROM what_changed', [("net", "max_epochs", "5", "9")]),
    ("SELECT runs, seconds FROM cost WHERE name = 'net'", [(2, 120)]),
    ("SELECT link, upstream_run_id, upstream_kind FROM lineage WHERE run_id = 'a'",
     [("upstream_training_run_id", "t2", "family")]),
    ("SELECT search_run_id, settings['learning_rate'], reached['dice'] FROM trials",
     [("s", "0.1", 0.4)]),
    ("SELECT experiment, name, against, p_holm FROM comparisons",
     [("tubes", "net", "mean_all", 0.5)]),
])  # fmt: skip
def test_a_view_answers_its_question(questions, sql, expected):
    rows = [tuple(row.values()) for row in workspace.query(questions, sql)]
    assert rows == [tuple(map(pytest.approx, row)) for row in expected]


def test_the_schema_names_every_table_view_and_column():
    text = workspace.schema()
    for table, columns in workspace.TABLES.items():
        assert all(column in text for column in (table, *columns))
    assert all(view in text for view in workspace.VIEWS)
    assert all(title in text for title in workspace.EXAMPLES)


def test_the_state_of_the_store_is_kept_with_the_rows(questions, tmp_path):
    assert workspace.source(questions) == "first"
    assert workspace.source(tmp_path / "absent.duckdb") is None
    workspace.refresh(questions, {})
    assert workspace.source(questions) is None


def test_breaks_and_merges_are_counted_by_volume_and_kind(several):
    gap = {"run_id": "a2", "name": "dynunet", "case": "v1", "label": 1, "fault": "false break",
           "x": 1.0, "y": 2.0, "z": 3.0, "length": 4.0, "lumen": 2.0, "unit": "micron"}  # fmt: skip
    runs = workspace.query(several, "FROM runs")
    faults = [gap, gap | {"length": 6.0}, gap | {"run_id": "a1"}]
    workspace.refresh(several, {"runs": runs, "faults": faults})
    rows = workspace.query(several, 'SELECT "case", fault, n, length, lumen FROM fault_counts')
    assert [tuple(row.values()) for row in rows] == [("v1", "false break", 2, 10.0, 2.0)]
