"""Fields of a deployed flow's form become words of its settings."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools import validate

from flows import analyse, deploy, experiment, profile_data, train
from minivess import config
from minivess.orchestration.forms import ASKED, asks
from minivess.verbs import VERBS


def story(
    settings: tuple[str, ...] = (),
    files: tuple[str, ...] = (),
    upstream: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a flow receives."""
    return settings, upstream


def test_what_is_filled_in_is_one_more_word_and_a_default_states_nothing() -> None:
    # Prefect gives by position what may be given so.
    received = asks("train")(story)(
        ("training.seeds=[1]",), (), ("abc",), data_root="/data/lab stacks",
        training_losses=("dice_ce", "dice"), training_max_epochs=3, training_folds=3, name="",
    )  # fmt: skip
    words = ("data.root=/data/lab stacks", 'training.losses=["dice_ce", "dice"]',
             "training.max_epochs=3")  # fmt: skip
    assert received == (("training.seeds=[1]", *words), ("abc",))
    assert config.load((), words).training.losses == ("dice_ce", "dice")


@pytest.mark.parametrize(
    "wrong", [{"training_max_epochs": 0}, {"training_models": ["dynunt"]}, {"hours": "soon"}]
)
def test_a_wrong_value_is_refused_before_the_flow_begins(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
        train.train.validate_parameters(wrong)


def test_each_flow_asks_for_what_its_verb_uses() -> None:
    flows: dict[str, Any] = {
        "profile": profile_data.profile_data, "train": train.train, "analyse": analyse.analyse,
        "deploy": deploy.deploy, "experiment": experiment.experiment,
    }  # fmt: skip
    for verb, flow in flows.items():
        fields = {key.replace(".", "_") for key in ASKED if VERBS[verb].reads(key)}
        assert fields
        shown = flow.parameters.properties
        assert shown.keys() - {"settings", "files", "upstream"} == fields
        assert all(field["description"] for field in shown.values())


def test_a_form_that_is_sent_as_it_is_shown_is_taken_and_states_nothing() -> None:
    form = train.train.parameters.model_dump_for_openapi()
    shown = {name: field["default"] for name, field in form["properties"].items()}
    validate(shown, form, raise_on_error=True, ignore_required=True)
    assert asks("train")(story)(**train.train.validate_parameters(shown) | {"files": ()})[0] == ()
