"""`minivess ui, up, down, restart, logs, health`: the servers of a home."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from minivess import config as configs
from minivess.config import ExperimentConfig
from minivess.home import open_home
from minivess.orchestration.background import Background
from minivess.runtime import output

Outcome = dict[str, Any]


def carry_out(config: ExperimentConfig, options: argparse.Namespace) -> Outcome:
    """Carry out the verb in the options on the servers of this home."""
    env = configs.environment()
    say = partial(output.print_for, options)
    servers = Background(open_home(env.home), config.tracking, env, say)
    match options.verb:
        case "up":
            return servers.up(_ports(options), options.watch)
        case "ui":
            servers.serve(_ports(options))
            return {}
        case "down":
            return servers.down(force=options.force)
        case "restart":
            return servers.restart(force=options.force)
        case "logs":
            servers.logs(options.arguments, follow=options.follow)
            return {}
    return servers.health()


def _ports(options: argparse.Namespace) -> dict[str, int | None]:
    return {"prefect": options.prefect_port, "mlflow": options.mlflow_port}
