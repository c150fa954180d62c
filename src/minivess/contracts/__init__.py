"""What crosses from one flow to another: closed records, fixed once made.

Axes are (x, y, z); tensors are (B, C, X, Y, Z). Paths inside records are relative to the
home folder, except in `Case` and `FoldModel`, which never leave the process that made them.
"""

from minivess.contracts.analysis import AnalysisResult, Champion, Interval, Scores
from minivess.contracts.data import (
    IGNORED,
    Case,
    DatasetProfile,
    Finding,
    Fold,
    LabelMap,
    Pairing,
    Split,
    VolumeStats,
)
from minivess.contracts.deployment import DeploymentResult, Engine, Parity, Smoke
from minivess.contracts.network import Limits, Loss, LossTerm, Network, Window
from minivess.contracts.plan import Choice, ComputePlan, Forecast, Hardware
from minivess.contracts.record import SCHEMA_VERSION, Contract, Severity, Shape, Spacing, Versioned
from minivess.contracts.run import RunRecord
from minivess.contracts.training import (
    CellOrder,
    CellResult,
    CellSpec,
    FamilyRun,
    FoldModel,
    TrainingResult,
    VolumeMetrics,
)

__all__ = [
    "IGNORED",
    "SCHEMA_VERSION",
    "AnalysisResult",
    "Case",
    "CellOrder",
    "CellResult",
    "CellSpec",
    "Champion",
    "Choice",
    "ComputePlan",
    "Contract",
    "DatasetProfile",
    "DeploymentResult",
    "Engine",
    "FamilyRun",
    "Finding",
    "Fold",
    "FoldModel",
    "Forecast",
    "Hardware",
    "Interval",
    "LabelMap",
    "Limits",
    "Loss",
    "LossTerm",
    "Network",
    "Pairing",
    "Parity",
    "RunRecord",
    "Scores",
    "Severity",
    "Shape",
    "Smoke",
    "Spacing",
    "Split",
    "TrainingResult",
    "Versioned",
    "VolumeMetrics",
    "VolumeStats",
    "Window",
]
