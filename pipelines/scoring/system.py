"""One system's answers to the held-out examples."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.scoring.model import SystemName, SystemScores
from pipelines.scoring.statistics import score

TITLES: dict[SystemName, str] = {
    "student": "student",
    "constrained": "student, constrained",
    "untrained": "untrained student",
    "teacher": "teacher",
    "majority": "majority label",
}


def engine_text(scores: SystemScores) -> str:
    """Engine and weights of a student's answers: `vllm, float32`. Empty if unknown."""
    return ", ".join(filter(None, [scores.engine, scores.weights]))


@dataclass(frozen=True)
class System:
    """One system's answers, in the order of the examples. If it has none, `labels` is empty and `note` gives the reason."""

    name: SystemName
    labels: tuple[str | None, ...] = ()
    """Normalised; None if the task can read no label."""
    right: tuple[bool, ...] = ()
    texts: tuple[str, ...] = ()
    """As written; only of students, like all fields below. Of several samples the one that counts."""
    rationales: tuple[str, ...] = ()
    """Only if the method writes label and rationale in one text."""
    confidences: tuple[float, ...] = ()
    in_set: tuple[bool | None, ...] = ()
    """As in Decoded: which scale a confidence has. Of sampled answers it is a share of votes."""
    engine: str | None = None
    weights: str | None = None
    """Engine and weights that answered."""
    too_long: int = 0
    seconds: float | None = None
    """Wall time."""
    answering_s: float | None = None
    """Time of all workers together, without their start and loading the model."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    note: str = ""

    def scores(self) -> SystemScores:
        """Its entry in report.json."""
        measured = score(self.right) if self.right else None
        return SystemScores(
            name=self.name,
            engine=self.engine,
            weights=self.weights,
            correct=measured.correct if measured else None,
            total=measured.total if measured else None,
            unanswered=sum(label is None for label in self.labels) if measured else None,
            too_long=self.too_long,
            accuracy=measured.accuracy if measured else None,
            interval=(measured.low, measured.high) if measured else None,
            seconds=self.seconds,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            seconds_per_example=self._per_example(self.answering_s),
            prompt_tokens_per_example=self._per_example(self.prompt_tokens),
            output_tokens_per_example=self._per_example(self.output_tokens),
            note=self.note,
        )

    def _per_example(self, total: float | None) -> float | None:
        return None if total is None or not self.right else total / len(self.right)
