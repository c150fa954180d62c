"""The pages of docs/ name what exists."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import pytest

from bench import chaos, reference
from minivess import config
from minivess.cli import new
from minivess.config import ModelConfig
from minivess.contracts import Network
from minivess.runtime import templates
from minivess.stages.doctor.examine import TEXTS
from minivess.verbs import OPTIONS, VERBS
from tests import grammar

CLONE = Path(__file__).resolve().parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "AGENTS.md")
PAGES = [*sorted((CLONE / "docs").glob("*.md")), *(CLONE / name for name in TOP)]
FOLDERS = r"src|flows|configs|docs|deployments|tests|bench|\.just|\.ci|\.github"
PARTS = "data|compute|training|evaluation|analysis|deployment|tracking"
SETTING = re.compile(rf"(?<!minivess\.)(?:{PARTS})\.[a-z_.]+")  # events are named minivess.data...


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_shown_on_a_page(verb: str):
    assert any(re.search(rf"\b(just|minivess) {verb}\b", page.read_text()) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_settings_that_exist(page: Path):
    typed = re.findall(r"`[^`\n]*`|^    .*$", page.read_text(), flags=re.MULTILINE)
    named = {key.rstrip(".") for text in typed for key in SETTING.findall(text)}
    assert {key for key in named if not known(key)} == set()


def test_the_reference_is_the_one_that_settings_and_verbs_give():
    assert reference.PAGE.read_text() == reference.page(), "just bench reference --write"


@pytest.mark.parametrize(("template", "name"), [
    ("model.yaml", "my_net"), ("model.py", "my_net"), ("loss.yaml", "my_loss"),
    ("loss.py", "my_loss"), ("tier.yaml", "big"),
])  # fmt: skip
def test_the_page_about_own_models_shows_the_files_that_are_written(template: str, name: str):
    text = templates.render(new.TEMPLATES / f"{template}.j2", name=name)
    assert text in (CLONE / "docs" / "own-model.md").read_text()


@pytest.mark.parametrize("field", [*ModelConfig.model_fields, *Network.model_fields])
def test_each_field_of_a_model_file_and_of_what_its_builder_gets_is_explained(field: str):
    if field not in ("name", "family", "builder", "limits"):
        assert f"`{field}`" in (CLONE / "docs" / "own-model.md").read_text()


@pytest.mark.parametrize("code", TEXTS)
def test_each_check_of_doctor_is_on_the_page_about_troubles(code: str):
    row = f"| `{code}` | {TEXTS[code]['why']} | {TEXTS[code]['remedy']} |"
    assert row in (CLONE / "docs" / "troubleshooting.md").read_text()


def test_each_hazard_says_what_happens_here_and_where_it_is_tested_or_that_it_is_not():
    page = (CLONE / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, flags=re.MULTILINE)
    assert sorted(int(number) for number, *_ in rows) == [*range(1, 68)]
    assert [row for row in rows if "`tests/" not in row[3] and "not tested" not in row[3]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_options_that_exist(page: Path):
    named = set(re.findall(r"`--([a-z-]+)", page.read_text()))
    assert named - {*OPTIONS, "debug", "help", "version", "index-url"} == set()  # one is pip's


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_files_that_exist(page: Path):
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", page.read_text())
    assert {name for name in named if not (CLONE / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_on_a_page_leads_to_a_file(page: Path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text())
    assert {link for link in links if not (page.parent / link).exists()} == set()


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(CLONE / "configs").rglob("*.yaml"), CLONE / "deployments" / "prefect.yaml"],
    ids=lambda page: page.name,
)
def test_a_command_on_a_page_is_one_that_the_grammar_takes(page: Path):
    for line in page.read_text().splitlines():
        for words in grammar.commands(line):
            grammar.check(words)


def test_each_command_that_ci_types_from_the_pages_is_a_recipe():
    spec = importlib.util.spec_from_file_location("documented", CLONE / ".ci" / "documented.py")
    assert spec is not None
    assert spec.loader is not None
    documented = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documented)
    typed = [command for command in documented.commands() if not documented.skipped(command)]
    assert len(typed) > 60
    assert {command.split()[1] for command in typed} - {*VERBS, "summary"} == set()


def known(key: str) -> bool:
    """Whether a setting, a folder of them, or a file of that name exists."""
    return (
        config.known(key)
        or (CLONE / "src" / "minivess" / key.replace(".py", "")).exists()
        or key.endswith((".py", ".json", ".yaml", ".html"))
    )


def test_the_readme_shows_a_run_of_chaos_as_it_printed_it():
    form = (
        r"Chaos on (\d{4}-\d\d-\d\d), seed \d+, [\d.]+ minutes: \d+ chains?, (\d+) faults? "
        r"\(((?:\d+ x [\w ]+(?:, )?)+)\), (\d+) differences?\."
    )
    ((day, faults, made, differences),) = re.findall(form, (CLONE / "README.md").read_text())
    assert date.fromisoformat(day) <= datetime.now().astimezone().date()
    kinds = dict(reversed(one.split(" x ")) for one in made.split(", "))
    assert set(kinds) <= set(chaos.FAULTS)
    assert sum(map(int, kinds.values())) == int(faults)
    assert differences == "0"
    printed = chaos.line(5, 1, Counter(dict.fromkeys(chaos.FAULTS, 1)), 1, 0)
    assert re.fullmatch(form, printed)
