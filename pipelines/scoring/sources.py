"""Where a prediction worker gets its student from. Sources are small and travel to the workers; weights do not."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from pipelines.config import StudentConfig
from pipelines.storage.store import Store
from pipelines.students.decoding import Student


class Source(Protocol):
    """A student that a worker can load."""

    def load(self, device: str) -> Student:
        """Load the student in this process. `device`: cpu or cuda."""
        ...


@dataclass(frozen=True)
class Trained:
    """The student of a finished student artifact."""

    folder: str
    """Path or URI."""

    def load(self, device: str) -> Student:
        """Read the weights in float32."""
        return Student.load(self.folder, device=device)


@dataclass(frozen=True)
class Untrained:
    """A student before its training."""

    student: StudentConfig
    seed: int
    max_input_tokens: int
    max_target_tokens: int
    tokenizer: str | None = None
    """Folder of the student's own tokenizer (`init.vocabulary`). None: the tokenizer of its model."""

    def load(self, device: str) -> Student:
        """Initialise the weights as the training does."""
        from pipelines.students.init import initial_student

        own = nullcontext() if self.tokenizer is None else Store(self.tokenizer).local_copy()
        with own as folder:
            model, tokenizer = initial_student(self.student, self.seed, folder)
        return Student(
            model, tokenizer, method=self.student.method, device=device,
            max_input_tokens=self.max_input_tokens, max_target_tokens=self.max_target_tokens,
        )  # fmt: skip
