"""The whole run file. tests/test_surface.py lists its keys, so that a new key is a deliberate change."""

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
    """Letters, digits, `.`, `_` and `-`. Names the endpoint's model, too."""
    output: Annotated[str, Field(min_length=1)]
    """Folder or URI of the run's artifacts."""
    task: str
    """Name of a built-in task, or path of your own task file."""
    task_options: dict[str, Any] = {}
    """Options of the task (classification: labels, instruction, examples)."""
    corpus: CorpusConfig
    teacher: TeacherConfig
    labelling: LabellingConfig = LabellingConfig()
    student: StudentConfig = StudentConfig(model="")
    """Every stage but label needs it."""
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    compare: CompareConfig = CompareConfig()

    @property
    def has_student(self) -> bool:
        """True if the run file names a student."""
        return bool(self.student.model)
