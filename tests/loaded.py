"""What a command imports on its way, imported by the process that commands are forked from.

Nothing here keeps a file open, starts a thread or reads what differs between commands.
"""

from __future__ import annotations

import gc

import cc3d  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import monai.inferers.utils
import monai.networks.nets.dynunet  # noqa: F401
import onnxruntime  # noqa: F401
import torch._dynamo  # noqa: F401
from sqlalchemy.orm import configure_mappers

from minivess.tracking.run import environment
from minivess.tracking.store.connection import preload

preload()

import dvc.repo  # noqa: E402, F401
import mlflow.pyfunc  # noqa: E402
import mlflow.store.tracking.sqlalchemy_store  # noqa: E402, F401
import prefect.flows  # noqa: E402, F401
from mlflow.utils.requirements_utils import (  # noqa: E402
    warn_dependency_requirement_mismatches,
)

import minivess.analysis.pipeline  # noqa: E402
import minivess.cli.commands  # noqa: E402
import minivess.cli.maintenance  # noqa: E402
import minivess.stages.deploy  # noqa: E402
import minivess.stages.experiment  # noqa: E402
import minivess.tracking.run.model  # noqa: E402
import minivess.training.trainer  # noqa: E402, F401

configure_mappers()
environment.collect()
# Which package brings which module: MLflow reads the records of all that are installed.
warn_dependency_requirement_mismatches(["torch"])
# A collection in a fork would copy every page that holds an object of these modules.
gc.freeze()
