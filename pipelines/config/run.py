"""The run file: one typed tree. Unknown keys are refused; each key's rule stands beside it, in its section's module.

load.py reads it from YAML. The keys of product documentation are fixed: tests/test_surface.py holds the list, so that a key is
added on purpose.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pipelines.config.base import Section
from pipelines.config.compare import CompareConfig
from pipelines.config.corpus import CorpusConfig
from pipelines.config.evaluation import EvaluationConfig
from pipelines.config.serving import ServingConfig
from pipelines.config.student import StudentConfig
from pipelines.config.teacher import LabellingConfig, TeacherConfig
from pipelines.config.training import TrainingConfig


class RunConfig(Section):
    """One run: a corpus, a teacher, a student, and what is made of them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    output: str
    """Folder or URI that holds the run's artifacts."""
    task: str
    """A built-in task's name, or the path of a task file of your own."""
    task_options: dict[str, Any] = {}
    """What a task can be told in YAML (classification: labels, instruction, examples)."""
    corpus: CorpusConfig
    teacher: TeacherConfig
    labelling: LabellingConfig = LabellingConfig()
    student: StudentConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    compare: CompareConfig = CompareConfig()
