"""One configuration: defaults in `ExperimentConfig`, then YAML files, environment, overrides.

Later files win over earlier ones, standard environment variables over files, overrides over all.
"""

from minivess.config.base import Auto as Auto
from minivess.config.base import Part as Part
from minivess.config.base import not_in_key as not_in_key
from minivess.config.catalog import LossConfig as LossConfig
from minivess.config.catalog import ModelConfig as ModelConfig
from minivess.config.catalog import TierConfig as TierConfig
from minivess.config.catalog import imported as imported
from minivess.config.catalog import loss as loss
from minivess.config.catalog import model as model
from minivess.config.catalog import tier as tier
from minivess.config.complaints import taken as taken
from minivess.config.complaints import validated as validated
from minivess.config.contradictions import CONTRADICTIONS as CONTRADICTIONS
from minivess.config.contradictions import Clash as Clash
from minivess.config.dotted_keys import changed as changed
from minivess.config.dotted_keys import dotted as dotted
from minivess.config.dotted_keys import example as example
from minivess.config.dotted_keys import field_of as field_of
from minivess.config.dotted_keys import known as known
from minivess.config.dotted_keys import leaves as leaves
from minivess.config.dotted_keys import parse as parse
from minivess.config.dotted_keys import refuse_unknown as refuse_unknown
from minivess.config.env_variables import QUIET as QUIET
from minivess.config.env_variables import Environment as Environment
from minivess.config.env_variables import caller as caller
from minivess.config.env_variables import calm_libraries as calm_libraries
from minivess.config.env_variables import changed_environment as changed_environment
from minivess.config.env_variables import child_environment as child_environment
from minivess.config.env_variables import default_environment as default_environment
from minivess.config.env_variables import environment as environment
from minivess.config.env_variables import foreign as foreign
from minivess.config.env_variables import local_without_proxy as local_without_proxy
from minivess.config.env_variables import set_environment as set_environment
from minivess.config.experiment import DEMO as DEMO
from minivess.config.experiment import AnalysisConfig as AnalysisConfig
from minivess.config.experiment import Augmentation as Augmentation
from minivess.config.experiment import ComputeConfig as ComputeConfig
from minivess.config.experiment import DataConfig as DataConfig
from minivess.config.experiment import DeploymentConfig as DeploymentConfig
from minivess.config.experiment import Dimension as Dimension
from minivess.config.experiment import EvaluationConfig as EvaluationConfig
from minivess.config.experiment import ExperimentConfig as ExperimentConfig
from minivess.config.experiment import ResamplingConfig as ResamplingConfig
from minivess.config.experiment import SearchConfig as SearchConfig
from minivess.config.experiment import Stage as Stage
from minivess.config.experiment import TrackingConfig as TrackingConfig
from minivess.config.experiment import TrainingConfig as TrainingConfig
from minivess.config.files import find as find
from minivess.config.files import folders as folders
from minivess.config.files import known_experiments as known_experiments
from minivess.config.files import read_yaml as read_yaml
from minivess.config.loader import load as load
from minivess.config.loader import overrides as overrides
