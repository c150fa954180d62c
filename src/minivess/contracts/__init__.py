"""Records handed from one stage to another: frozen, no extra fields.

Axes are (x, y, z); tensors are (B, C, X, Y, Z). Paths inside records are relative to the
home folder, except in `Case` and `FoldModel`, which never leave the process that made them.
"""

from minivess.contracts.analysis import Agreement as Agreement
from minivess.contracts.analysis import AnalysisResult as AnalysisResult
from minivess.contracts.analysis import Champion as Champion
from minivess.contracts.analysis import Comparison as Comparison
from minivess.contracts.analysis import Fault as Fault
from minivess.contracts.analysis import FaultKind as FaultKind
from minivess.contracts.analysis import Interval as Interval
from minivess.contracts.analysis import LossName as LossName
from minivess.contracts.analysis import Measured as Measured
from minivess.contracts.analysis import Reliability as Reliability
from minivess.contracts.analysis import Risk as Risk
from minivess.contracts.analysis import Scores as Scores
from minivess.contracts.analysis import Selection as Selection
from minivess.contracts.analysis import Uncertainty as Uncertainty
from minivess.contracts.data import IGNORED as IGNORED
from minivess.contracts.data import Case as Case
from minivess.contracts.data import DatasetProfile as DatasetProfile
from minivess.contracts.data import Finding as Finding
from minivess.contracts.data import Fold as Fold
from minivess.contracts.data import LabelMap as LabelMap
from minivess.contracts.data import Pairing as Pairing
from minivess.contracts.data import Split as Split
from minivess.contracts.data import VolumeStats as VolumeStats
from minivess.contracts.deployment import AliasMove as AliasMove
from minivess.contracts.deployment import DeploymentResult as DeploymentResult
from minivess.contracts.deployment import Domain as Domain
from minivess.contracts.deployment import Engine as Engine
from minivess.contracts.deployment import EngineName as EngineName
from minivess.contracts.deployment import Parity as Parity
from minivess.contracts.deployment import Smoke as Smoke
from minivess.contracts.network import Composition as Composition
from minivess.contracts.network import How as How
from minivess.contracts.network import Limits as Limits
from minivess.contracts.network import Loss as Loss
from minivess.contracts.network import LossTerm as LossTerm
from minivess.contracts.network import Network as Network
from minivess.contracts.network import Normalisation as Normalisation
from minivess.contracts.network import Part as Part
from minivess.contracts.network import Resampling as Resampling
from minivess.contracts.network import Scale as Scale
from minivess.contracts.network import Window as Window
from minivess.contracts.plan import Choice as Choice
from minivess.contracts.plan import ComputePlan as ComputePlan
from minivess.contracts.plan import Forecast as Forecast
from minivess.contracts.plan import Hardware as Hardware
from minivess.contracts.record import SCHEMA_VERSION as SCHEMA_VERSION
from minivess.contracts.record import Contract as Contract
from minivess.contracts.record import Severity as Severity
from minivess.contracts.record import Shape as Shape
from minivess.contracts.record import Spacing as Spacing
from minivess.contracts.record import Versioned as Versioned
from minivess.contracts.run import RunRecord as RunRecord
from minivess.contracts.training import CellOrder as CellOrder
from minivess.contracts.training import CellResult as CellResult
from minivess.contracts.training import CellSpec as CellSpec
from minivess.contracts.training import FamilyRun as FamilyRun
from minivess.contracts.training import FoldModel as FoldModel
from minivess.contracts.training import TrainingResult as TrainingResult
from minivess.contracts.training import VolumeMetrics as VolumeMetrics
