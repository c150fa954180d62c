"""One configuration: defaults here, differences in YAML, then `key=value` words.

Later files win over earlier ones, standard environment variables over files, words over all.
"""

from minivess.config.base import Auto, Part, uncounted
from minivess.config.catalog import LossConfig, ModelConfig, TierConfig, imported, loss, model, tier
from minivess.config.complaints import taken, validated
from minivess.config.contradictions import CONTRADICTIONS, Clash
from minivess.config.dotted_keys import (
    changed,
    dotted,
    example,
    field_of,
    known,
    leaves,
    parse,
    refuse_unknown,
)
from minivess.config.env_variables import (
    QUIET,
    Environment,
    caller,
    changed_environment,
    child_environment,
    default_environment,
    environment,
    foreign,
    local_without_proxy,
    set_environment,
    silence_telemetry,
)
from minivess.config.experiment import (
    DEMO,
    AnalysisConfig,
    ComputeConfig,
    DataConfig,
    DeploymentConfig,
    Dimension,
    EvaluationConfig,
    ExperimentConfig,
    ResamplingConfig,
    SearchConfig,
    Stage,
    TrackingConfig,
    TrainingConfig,
)
from minivess.config.files import find, folders, known_experiments, read_yaml
from minivess.config.loader import load, overrides

__all__ = [
    "CONTRADICTIONS",
    "DEMO",
    "QUIET",
    "AnalysisConfig",
    "Auto",
    "Clash",
    "ComputeConfig",
    "DataConfig",
    "DeploymentConfig",
    "Dimension",
    "Environment",
    "EvaluationConfig",
    "ExperimentConfig",
    "LossConfig",
    "ModelConfig",
    "Part",
    "ResamplingConfig",
    "SearchConfig",
    "Stage",
    "TierConfig",
    "TrackingConfig",
    "TrainingConfig",
    "caller",
    "changed",
    "changed_environment",
    "child_environment",
    "default_environment",
    "dotted",
    "environment",
    "example",
    "field_of",
    "find",
    "folders",
    "foreign",
    "imported",
    "known",
    "known_experiments",
    "leaves",
    "load",
    "local_without_proxy",
    "loss",
    "model",
    "overrides",
    "parse",
    "read_yaml",
    "refuse_unknown",
    "set_environment",
    "silence_telemetry",
    "taken",
    "tier",
    "uncounted",
    "validated",
]
