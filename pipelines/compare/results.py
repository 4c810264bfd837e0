"""Results of a grid while its cells are made: the input of its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pipelines.compare.budgets import Budgets
from pipelines.compare.grid import Cell, Setting
from pipelines.compare.model import Arm, Line
from pipelines.compare.tf_idf import TfIdf
from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout, validation_share
from pipelines.methods import MethodName, rationale_readers
from pipelines.scoring.contamination import chosen_on_part, seen_in_training, trained_on_part
from pipelines.scoring.heldout_part import heldout_key, heldout_part
from pipelines.scoring.model import HeldoutPart, RationalesRead
from pipelines.scoring.rationales import rationales_read
from pipelines.scoring.reference_systems import majority_label, teacher_answers
from pipelines.scoring.system import System
from pipelines.scoring.systems import majority_system, teacher_system
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task


@dataclass(frozen=True)
class References:
    """Results that do not depend on cells: held-out examples, teacher, majority label."""

    heldout: HeldoutPart
    lines: list[Line]
    rationales_read: RationalesRead | None
    teacher_prompt_tokens: float | None
    """Mean per answer."""
    teacher_output_tokens: float | None


@dataclass
class GridResults:
    """The grid and its finished parts."""

    run: RunConfig
    task: Task
    labels: Manifest
    heldout: Heldout
    examples: Sequence[Example]
    """Scored ones."""
    references: References
    arms: list[Arm] = field(default_factory=list)
    budgets: Budgets = field(default_factory=Budgets)
    chosen: dict[tuple[str, MethodName], Setting] = field(default_factory=dict)
    """By a search; empty without one."""
    trials: dict[Cell, Manifest] = field(default_factory=dict)
    failed_trials: dict[Cell, str] = field(default_factory=dict)
    """With the reason."""
    cells: dict[Cell, Manifest] = field(default_factory=dict)
    rights: dict[Cell, list[bool]] = field(default_factory=dict)
    untrained: dict[str, Manifest] = field(default_factory=dict)
    """By model."""
    few_shot: dict[str, Manifest] = field(default_factory=dict)
    """By model; empty without this arm."""
    tf_idf: list[TfIdf] = field(default_factory=list)
    """By fraction; empty without this arm."""
    missing: dict[Cell, str] = field(default_factory=dict)
    """With the reason."""


def references(
    run: RunConfig, task: Task, heldout: Heldout, examples: Sequence[Example], validation: Sequence[Example] | None
) -> References:
    """Read the labels.

    Args:
        validation: examples on which settings or weights are chosen; None if nothing is chosen.

    Raises:
        UserError: too many of the examples are training rows, or validation examples.
    """
    labels, share, key = Store(run.output).child("labels"), validation_share(run.corpus.validation), heldout_key(run)
    answers = teacher_answers(labels, run.corpus, examples, task)
    trained_on = trained_on_part(seen_in_training(labels, share, examples), len(examples), key)
    chosen_on = None if validation is None else chosen_on_part(validation, examples, key)
    systems = [
        teacher_system(run, task, answers, examples),
        majority_system(task, majority_label(labels, share, task), examples),
    ]
    return References(
        heldout=heldout_part(run, heldout, examples, trained_on, chosen_on),
        lines=[_line(system) for system in systems],
        rationales_read=rationales_read(answers, examples, task) if rationale_readers(run.compare.methods) else None,
        teacher_prompt_tokens=_mean([one.prompt_tokens for one in answers.by_id.values()]),
        teacher_output_tokens=_mean([one.output_tokens for one in answers.by_id.values()]),
    )


def _mean(counts: Sequence[int | None]) -> float | None:
    """Mean of the known counts; None if all are unknown or 0, as in a recording."""
    known = [count for count in counts if count is not None]
    return fmean(known) if any(known) else None


def _line(system: System) -> Line:
    scores = system.scores()
    assert scores.name in ("teacher", "majority")
    return Line(
        name=scores.name,
        student=None,
        correct=scores.correct,
        total=scores.total,
        accuracy=scores.accuracy,
        interval=scores.interval,
        note=scores.note,
    )
