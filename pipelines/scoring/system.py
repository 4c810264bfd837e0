"""One system's answers to the held-out examples, and its row in report.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.scoring.statistics import score

TITLES = {"student": "student", "untrained": "untrained student", "teacher": "teacher", "majority": "majority label"}


@dataclass(frozen=True)
class System:
    """One system's answers, in the order of the examples. Without answers (`labels` is empty) `note` says why."""

    name: str
    labels: tuple[str | None, ...] = ()
    """Normalised; None where there is no answer that the task can read."""
    right: tuple[bool, ...] = ()
    texts: tuple[str, ...] = ()
    """As written; students only, like all that follows. Of several samples the one that counts."""
    rationales: tuple[str, ...] = ()
    """Where its method writes label and rationale as one text."""
    confidences: tuple[float, ...] = ()
    too_long: int = 0
    seconds: float | None = None
    answering_s: float | None = None
    """`seconds` without Ray's start and the loading of the model, over all workers."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """Its entry in report.json."""
        measured = score(self.right) if self.right else None
        return {
            "name": self.name,
            "correct": measured.correct if measured else None,
            "total": measured.total if measured else None,
            "unanswered": sum(label is None for label in self.labels) if measured else None,
            "too_long": self.too_long,
            "accuracy": measured.accuracy if measured else None,
            "interval": [measured.low, measured.high] if measured else None,
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "seconds_per_example": self._per_example(self.answering_s),
            "prompt_tokens_per_example": self._per_example(self.prompt_tokens),
            "output_tokens_per_example": self._per_example(self.output_tokens),
            "note": self.note,
        }

    def _per_example(self, total: float | None) -> float | None:
        return None if total is None or not self.right else total / len(self.right)
