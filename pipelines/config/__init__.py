"""The run file as one typed tree. Each section has a module of its own, with its rules; load.py reads the YAML."""

from pipelines.config.base import ReplicasConfig
from pipelines.config.compare import CompareConfig, SearchConfig
from pipelines.config.corpus import CorpusConfig
from pipelines.config.evaluation import EvaluationConfig, SamplesConfig
from pipelines.config.run import RunConfig
from pipelines.config.serving import ServingConfig
from pipelines.config.student import InitConfig, LoraConfig, StudentConfig
from pipelines.config.teacher import (
    READER_CPUS,
    BudgetConfig,
    EngineConfig,
    FiltersConfig,
    LabellingConfig,
    PriceConfig,
    RemoteConfig,
    SamplingConfig,
    TeacherConfig,
)
from pipelines.config.training import TrainingConfig

__all__ = [
    "READER_CPUS", "BudgetConfig", "CompareConfig", "CorpusConfig", "EngineConfig", "EvaluationConfig", "FiltersConfig", "InitConfig",
    "LabellingConfig", "LoraConfig", "PriceConfig", "RemoteConfig", "ReplicasConfig", "RunConfig", "SamplesConfig", "SamplingConfig",
    "SearchConfig", "ServingConfig", "StudentConfig", "TeacherConfig", "TrainingConfig",
]  # fmt: skip
