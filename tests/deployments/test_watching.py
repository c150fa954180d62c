"""Prometheus' rules and Grafana's board of the service, tried by Prometheus' own programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"


def promtool(*words: str) -> None:
    """Run promtool in the folder of the rules; it must find nothing wrong."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    done = subprocess.run(
        [program, *words], cwd=DEPLOYMENTS / "prometheus", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_its_settings_and_rules() -> None:
    promtool("check", "config", "prometheus.yml")


def test_alerts_are_raised_and_ended_on_recorded_series() -> None:
    promtool("test", "rules", "tests.yml")


def test_each_alert_is_tried() -> None:
    folder = DEPLOYMENTS / "prometheus"
    (group,) = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    cases = yaml.safe_load((folder / "tests.yml").read_text())["tests"]
    tried = {
        (one["alertname"], bool(one["exp_alerts"]))
        for case in cases for one in case["alert_rule_test"]
    }  # fmt: skip
    assert tried == {(rule["alert"], raised) for rule in group["rules"] for raised in (True, False)}


def test_the_board_asks_the_prometheus_that_is_provisioned() -> None:
    board = json.loads((DEPLOYMENTS / "grafana" / "service.json").read_text())
    provisioned = yaml.safe_load((DEPLOYMENTS / "grafana" / "datasources.yaml").read_text())
    (source,) = provisioned["datasources"]
    asked = {panel["datasource"]["uid"] for panel in board["panels"]}
    asked |= {
        target["datasource"]["uid"] for panel in board["panels"] for target in panel["targets"]
    }
    assert asked == {source["uid"]}
