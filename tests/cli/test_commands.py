"""The command line: quick help, exit codes, one JSON object, and words that are used or refused."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from minivess import config
from minivess.cli import commands, grammar, main, notice, schema
from minivess.runtime import output
from minivess.verbs import GROUPS, OPTIONS, ROWS, VERBS
from tests import grammar as printed
from tests.project.test_config import OTHER

CLONE = Path(__file__).resolve().parents[2]
WALKED = [name for name in ROWS if name not in ("help", "review")]
VALUES = {"config": ["configs/experiments/lite.yaml"], "upstream": ["ID"], "pool": ["P"],
          "why": ["seen"], "who": ["Ada"], "label": ["file"], "image": ["file"], "faults": ["ID"],
          "dataset": ["name"], "as": ["slicer"], "like": ["demo"], "prefect-port": ["1"],
          "mlflow-port": ["1"], "port": ["1"], "host": ["0.0.0.0"],
          "url": ["http://x"], "watch": ["folder"], "to": ["onnx"],
          "model": ["file"]}  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from minivess.cli import grammar, main; grammar.overview().format_help();"
        "heavy = ('torch', 'mlflow', 'prefect', 'pydantic', 'numpy');"
        "print([module for module in heavy if module in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def told(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What a command prints that ends at once."""
    assert main.main(words) == code
    streams = capsys.readouterr()
    return streams.out if code == 0 else streams.err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(f"  {verb} " in told(["--help"], capsys) for verb in VERBS)
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(VERBS)
    assert told(["help"], capsys) == told(["--help"], capsys)
    assert told(["--version"], capsys).startswith("minivess ")


@pytest.mark.parametrize("words", [["train", "--help"], ["help", "train"]])
def test_the_help_of_a_verb_shows_its_own_options_and_settings(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = told(words, capsys)
    assert "--upstream" in shown
    assert "training.max_epochs=100\n      passes over the training volumes" in shown
    assert "--apply" not in shown
    assert "deployment.parity_volumes" not in shown


def test_a_mistyped_verb_is_wrong_usage_and_names_the_nearest_if_one_is_near(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "did you mean `minivess experiment`" in told(["experimant"], capsys, 2)
    assert "did you mean" not in told(["xyzzy"], capsys, 2)


def test_a_file_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(["train", "configs/experiments/nothing.yaml"], capsys, 2)
    assert "configs/experiments/demo.yaml" in shown


def test_a_bare_word_that_no_verb_takes_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "key=value" in told(["train", "epochs"], capsys, 2)
    assert "IN OUT" in told(["predict", "image.nii.gz"], capsys, 2)


def test_config_and_bare_files_are_the_same() -> None:
    bare = grammar.read(["train", "configs/experiments/demo.yaml"])
    named = grammar.read(["train", "--config", "configs/experiments/demo.yaml"])
    assert bare.files == named.files == ["configs/experiments/demo.yaml"]


def test_a_tier_shorthand_is_the_profile_word() -> None:
    assert grammar.read(["plan", "--gpu-low"]).overrides == ["compute.profile=gpu_low"]


@pytest.mark.parametrize("words", [["--cpu", "--gpu-low"], ["--cpu", "compute.profile=gpu_high"]])
def test_two_tiers_are_a_contradiction(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "contradict" in told(["plan", *words], capsys, 2)


def test_bare_words_with_an_equals_sign_are_no_settings(tmp_path: Path) -> None:
    query = "select * from metrics where key='dice'"
    assert grammar.read(["sql", query]).arguments == [query]
    (tmp_path / "name=a.nii.gz").touch()
    words = [str(tmp_path / "name=a.nii.gz"), "out=2", "name=vessels"]
    read = grammar.read(["predict", *words])
    assert (read.arguments, read.overrides) == (words[:2], words[2:])


def test_json_is_one_object_on_the_last_line_and_nothing_else_is_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["demo-data", str(tmp_path / "demo"), "data.demo_volumes=4", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"folder": str(tmp_path / "demo")}
    assert len(list((tmp_path / "demo" / "images").iterdir())) == 4


@pytest.mark.usefixtures("stocked")
def test_quiet_prints_warnings_and_the_outcome_with_the_keys_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    profile = ["profile", "data.demo_volumes=4", "--quiet"]
    assert main.main(profile) == 0
    made = capsys.readouterr()
    lines = dict(line.split(": ") for line in made.out.splitlines())
    assert lines.keys() == {"data_profile_run_id", "dataset_hash", "n_volumes"}
    assert "Profile" not in made.err
    assert main.main([*profile, "--json"]) == 0
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert found["reused"] == [lines["data_profile_run_id"]]
    assert (found["n_volumes"], again.err) == (4, "")


@pytest.mark.usefixtures("stocked")
def test_a_query_tells_how_much_it_shows_and_json_holds_all_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    assert told(["sql", "select 1 as n where 1=2"], capsys) == "  no rows\n"
    query = "select range as n, null as m, 'nan'::double as x from range(150)"
    lines = told(["sql", query], capsys).splitlines()
    assert [line.split() for line in lines[:2]] == [["n", "m", "x"], ["0", "NULL", "nan"]]
    assert lines[101:] == ["  100 of 150 rows are shown; --json prints all"]
    rows = json.loads(told(["sql", query, "--json"], capsys))["rows"]
    assert rows[149] == {"n": 149, "m": None, "x": None}


# --- every verb with every option and setting -----------------------------------------------


@pytest.mark.parametrize("name", WALKED)
def test_an_option_is_taken_or_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in OPTIONS:
        words = [*name.split(), *printed.bare_words(name), f"--{option}", *VALUES.get(option, ())]
        if option == "schema" and "json" in ROWS[name].options and name != "sql":
            with pytest.raises(SystemExit, match="0"):  # printed, as help is
                grammar.read(words)
        elif option in ROWS[name].accepts():
            assert grammar.read(words).verb == name.split()[0]
        else:
            refused = told(words, capsys, 2)
            assert f"`minivess {name}` does not use --{option}" in refused
            assert "it belongs to minivess " in refused


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKED)
def test_a_setting_is_taken_or_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for key in OTHER:
        own = key.startswith(("data.image", "data.label")) and not key.startswith("data.label_map")
        rooted = own and name != "init"  # whose argument is the folder
        words = [*OTHER[key], *(["data.root=/data/vessels"] if rooted else [])]
        words = [*name.split(), *printed.bare_words(name), *words]
        if ROWS[name].reads(key):
            taken: object = commands.settings(grammar.read(words))
            for part in key.split("."):
                taken = getattr(taken, part)
            assert taken is not None
        elif ROWS[name].uses:
            refused = told(words, capsys, 2)
            assert f"`minivess {name.split()[0]}`" in refused
            assert f"does not use {key}." in refused
            assert "it belongs to minivess " in refused
        else:
            assert "takes" in told(words, capsys, 2)


def test_every_setting_and_option_belongs_to_a_verb_and_every_verb_is_carried_out() -> None:
    rows = list(ROWS.values())
    assert all(any(row.reads(key) for row in rows) for key in config.leaves())
    assert all(any(option in row.accepts() for row in rows) for option in OPTIONS)
    assert commands.STORIES.keys() == set(VERBS) - {"help"}


@pytest.mark.parametrize(("words", "said"), [
    (["analyse", "training.max_epochs=5"],
     "minivess experiment, watch, data-changed, train, search, plan"),
    (["profile", "--upstream", "x", "--apply"], "--upstream"),
    (["demo-data", "DIR", "--force"], "minivess delete, purge"),
    (["experiment", "--upstream", "x"], "minivess train"),
    (["experiment", "flows=[analyse]", "training.max_epochs=5"], "flows=[analyse]"),
    (["profile", "data.root=/x", "data.demo_volumes=5"], "demo data"),
    (["status", "--follow", "--json"], "--json"),
    (["review", "list", "--why", "x"], "review accept, review reject"),
    (["notify", "http://x", "training.folds=2"], "takes URL"),
    (["help", "train", "extra"], "minivess help train"),
    (["help", "train", "--yes"], "'--yes'"),
])  # fmt: skip
def test_a_word_that_would_be_ignored_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in told(words, capsys, 2)


def test_one_file_serves_all_verbs() -> None:
    read = grammar.read(["deploy", "configs/experiments/search.yaml", "data.root=/data/vessels"])
    assert commands.settings(read).training.max_epochs == 20


# --- the spelling of commands ---------------------------------------------------------------


def test_commands_are_spelt_as_the_caller_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_line(sys.stdout, "then `minivess ui`; .venv/bin/minivess ui, minivess newer")
    assert "`minivess ui`" in capsys.readouterr().out
    monkeypatch.setenv("MINIVESS_CALLER", "just")
    output.print_line(sys.stdout, "then `minivess ui`; .venv/bin/minivess ui, minivess newer")
    assert capsys.readouterr().out == "then `just ui`; .venv/bin/minivess ui, minivess newer\n"
    assert "just help" in told(["xyzzy"], capsys, 2)
    assert "usage: just train" in told(["help", "train"], capsys)


MODULES = sorted([*(CLONE / "flows").glob("*.py"), *(CLONE / "src").rglob("*.py")])


def test_letters_that_a_terminal_lacks_are_printed_as_escapes() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    output.print_line(stream, "Läbor")
    assert stream.buffer.getvalue() == b"L\\xe4bor\n"


def test_a_command_that_the_code_prints_is_one_that_the_grammar_takes() -> None:
    found = 0
    for module in MODULES:
        for text in printed.strings(module):
            assert not re.search(r"(?<!\w)`?just (?:train|ui|predict|experiment)\b", text)
            for words in printed.commands(text):
                printed.check(words)
                found += 1
    assert found > 60


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "json" in row.options])
def test_what_a_verb_prints_for_programs_has_a_schema(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "sql":  # whose --schema is that of the tables
        assert main.main([*name.split(), "--schema"]) == 0
    made = schema.of(name) if name == "sql" else json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(made)
    assert f"minivess {name}" in made["title"]  # `review` alone is `review list`


def test_a_failure_is_an_object_with_code_problem_and_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main.main(["plan", f"data.root={tmp_path}", "--json"]) == 1
    said = capsys.readouterr()
    told = json.loads(said.out)["failure"]
    assert set(told) == {"code", "problem", "remedy"}
    assert told["problem"] in said.err
    assert main.main(["explain", "none_such", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["failure"]["code"] == "UsageError"


def test_a_command_of_ones_own_runs_when_a_long_one_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = 'echo "$MINIVESS_COMMAND, $MINIVESS_EXIT_CODE, $MINIVESS_SECONDS s" > told.txt'
    monkeypatch.setenv("MINIVESS_WHEN_DONE", own)
    monkeypatch.chdir(tmp_path)
    notice.give(["train", "hours=3"], 1, 599.0)
    assert not Path("told.txt").exists()
    notice.give(["train", "hours=3"], 1, 10_800.0)
    assert Path("told.txt").read_text() == "train hours=3, 1, 10800 s\n"
