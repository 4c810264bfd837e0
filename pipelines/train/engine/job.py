"""What the driver sends to the workers of a training, and what worker 0 returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.storage.store import Store
from pipelines.students.details import TrainingDetails

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class TrainingJob:
    """A training. URIs and paths are absolute, because workers have another working directory."""

    run: RunConfig
    folder: str
    """URI of this training's own folder for checkpoints and other temporary files. Removed when the student is finished."""
    tokens: str
    """URI of the token table, which cells of a comparison share."""
    student: str
    """URI that the student is written to."""
    name: str
    """The same after a restart."""
    tensorboard: str
    """URI of the TensorBoard files."""
    tokenizer: str | None = None
    """URI of the student's own tokenizer (init.vocabulary); None: the model's."""
    progress: ActorHandle | None = None
    """Handle of a ProgressActor."""

    @property
    def work(self) -> Store:
        """`folder`, opened."""
        return Store(self.folder)

    def best_weights(self, step: int) -> Store:
        """The folder of the weights after a step that had the best objective when it was measured."""
        return self.work.child(f"best/step-{step}")


@dataclass(frozen=True)
class TrainingResult:
    """What worker 0 returns when the student is exported."""

    details: TrainingDetails
    """Without `token_counts`."""
    parameters: int
    trained_parameters: int
    tokens: int
    """As in the details."""
    seconds: float


@dataclass(frozen=True)
class TrainingFailure:
    """What every worker returns if another attempt would fail in the same way."""

    reason: str
