"""The grid: its cells, the settings that a search tries, and the run of each cell.

In: the run file's `compare`. Out: cells. Each is a run of its own in OUTPUT/compare/cells, with the labels of the run:

    methods [finetune, step-by-step] x fractions [0.25, 1.0] x students [A] x seeds [0, 1]
      -> Cell(student A, finetune, 0.25, seed 0, Setting(learning_rate 1e-4, weight None)), ...

At the largest fraction, cells with a treatment follow, whose labels treated_labels.py changes before training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from pipelines.compare.budgets import Budgets
from pipelines.compare.model import GroupKey, TreatmentKind, title_of
from pipelines.compare.treated_labels import Treatment, treated_manifest
from pipelines.config import CompareConfig, RunConfig, StudentConfig
from pipelines.data.heldout import validation_share
from pipelines.errors import UserError
from pipelines.methods import METHODS, MethodName
from pipelines.storage.filesystems import join
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task
from pipelines.train.identity import train_identity

_BASELINE: MethodName = "finetune"
_DISTILLED: MethodName = "task-distillation"
_STEP = 7
"""Trials take their weights in strides of this size, so that a high learning rate does not always meet a high weight."""


@dataclass(frozen=True)
class Setting:
    """Settings that a search chooses."""

    learning_rate: float
    weight: float | None
    """Of the method's loss (StudentConfig.weight_key); None if it has none."""
    steps: int | None = None
    """Of a search over budgets. None: the grid's budget."""


@dataclass(frozen=True)
class Cell:
    """One student to train and score."""

    student: str
    """Hub id or folder."""
    method: MethodName
    fraction: float
    seed: int
    setting: Setting
    treatment: TreatmentKind | None = None
    gold_fraction: float | None = None

    @property
    def arm(self) -> str:
        """The method and its treatment."""
        return title_of(self.method, self.treatment, self.gold_fraction)

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{student_name(self.student)} {self.arm} {self.fraction:.4g} seed {self.seed}"

    @property
    def key(self) -> GroupKey:
        """Its group in reports."""
        return GroupKey(
            student=student_name(self.student), method=self.method, fraction=self.fraction, treatment=self.treatment,
            gold_fraction=self.gold_fraction,
        )  # fmt: skip

    def treated(self, run: RunConfig) -> Treatment | None:
        """What is changed in its labels; None: nothing."""
        if self.treatment is None:
            return None
        share = None if self.gold_fraction is None else self.gold_fraction * self.fraction
        return Treatment(self.treatment, self.seed, validation_share(run.corpus.validation), share)


def student_name(model: str) -> str:
    """The last part of a hub id or a folder, safe for file names.

    >>> student_name("google/t5-v1_1-base")
    't5-v1_1-base'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2]) or "student"


def students_of(run: RunConfig) -> list[str]:
    """The models of the grid."""
    return list(run.compare.students or [run.student.model])


def student_of(run: RunConfig, method: MethodName, model: str) -> StudentConfig:
    """The run's student with another method and model. Raises UserError if its settings do not fit the method."""
    try:
        return run.student.with_method(method, model)
    except ValidationError as error:
        rules = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise UserError(f"compare.methods {method}", rules, "Alternatively, remove the method.") from error


def baseline_of(compare: CompareConfig) -> MethodName:
    """The method that the others are compared with: the first in the order of METHODS."""
    return min(compare.methods, key=list(METHODS).index)


def settings_of(run: RunConfig, method: MethodName) -> list[Setting]:
    """The settings that a method tries: `search.trials` for every method, with the same learning rates.

    Learning rates are evenly spaced on a logarithmic scale, weights on a linear one. Each trial has another value of both (a Latin
    square).
    """
    student = student_of(run, method, run.student.model)
    own = getattr(student, student.weight_key) if student.weight_key else None
    search = run.compare.search
    budgets: list[int | None] = [None] if search.steps is None else [*search.steps]
    if search.trials == 1 or search.learning_rate is None:
        return [Setting(run.training.learning_rate, own, steps) for steps in budgets]
    low, high = (math.log(bound) for bound in search.learning_rate)
    places = [trial / (search.trials - 1) for trial in range(search.trials)]
    rates = [float(f"{math.exp(low + place * (high - low)):.3g}") for place in places]
    if student.weight_key is None or search.weight is None:
        return [Setting(rate, own, steps) for steps in budgets for rate in rates]
    weights = [round(search.weight[0] + place * (search.weight[1] - search.weight[0]), 3) for place in places]
    stride = _STEP if math.gcd(_STEP, search.trials) == 1 else 1
    shuffled = [weights[(trial * stride + search.trials // 2) % search.trials] for trial in range(search.trials)]
    pairs = list(zip(rates, shuffled, strict=True))
    return [Setting(rate, weight, steps) for steps in budgets for rate, weight in pairs]


def trials(run: RunConfig) -> list[Cell]:
    """The cells that choose settings; none without a search."""
    if run.compare.search.trials == 1:
        return []
    fraction, seed = run.compare.search.fraction or max(run.compare.fractions), run.compare.seeds[0]
    return [
        Cell(student, method, fraction, seed, setting)
        for student in students_of(run)
        for method in run.compare.methods
        for setting in settings_of(run, method)
    ]


def cells(run: RunConfig, chosen: Mapping[tuple[str, MethodName], Setting]) -> list[Cell]:
    """All cells: the whole grid of the first seed first, and small fractions first, so that reports show curves early.

    A cell with a treatment has the setting of its method.
    """
    compare = run.compare
    found = []
    for seed in compare.seeds:
        for fraction in sorted(compare.fractions):
            for student in students_of(run):
                for method in compare.methods:
                    cell = Cell(student, method, fraction, seed, chosen[student, method])
                    found += [cell, *_shuffled(run, cell)]
                if fraction == max(compare.fractions):
                    found += _gold_cells(run, student, seed, chosen)
    return found


def _shuffled(run: RunConfig, cell: Cell) -> list[Cell]:
    applies = "shuffled-rationales" in run.compare.arms and learns_rationales(cell.method)
    return (
        [replace(cell, treatment="shuffled-rationales")]
        if applies and cell.fraction == max(run.compare.fractions)
        else []
    )


def _gold_cells(
    run: RunConfig, student: str, seed: int, chosen: Mapping[tuple[str, MethodName], Setting]
) -> Iterator[Cell]:
    """For each share of the gold labels: finetune on it, and the methods that take the teacher's label for the rest."""
    compare = run.compare
    filling = dict.fromkeys([_DISTILLED, *(method for method in compare.methods if fills_gold_gaps(method))])
    plain = chosen.get((student, _BASELINE))
    kinds: list[tuple[MethodName, TreatmentKind]] = [
        (_BASELINE, "gold-only"),
        *((m, "gold-else-teacher") for m in filling),
    ]
    for share in sorted(compare.gold_fractions or ()):
        for method, kind in kinds:
            # Both learn labels alone: without a search of its own, task-distillation has the setting of finetune.
            setting = chosen.get((student, method)) or plain or settings_of(run, method)[0]
            yield Cell(student, method, max(compare.fractions), seed, setting, kind, share)


def learns_rationales(method: MethodName) -> bool:
    """True if the method learns to write the rationale of a row, so that it can be another row's."""
    return METHODS[method].writes_rationales and not METHODS[method].learns_teacher_tokens


def fills_gold_gaps(method: MethodName) -> bool:
    """True if the method can learn gold labels and the teacher's side by side, and needs no teacher at serving time."""
    spec = METHODS[method]
    return method == _DISTILLED or (spec.label_column is None and not spec.reads_rationale)


def without_search(run: RunConfig) -> dict[tuple[str, MethodName], Setting]:
    """The setting of each student and method without a search."""
    return {(s, m): settings_of(run, m)[0] for s in students_of(run) for m in run.compare.methods}


def run_of(run: RunConfig, cell: Cell, task: Task, labels: Manifest, budgets: Budgets | None = None) -> RunConfig:
    """The run that trains a cell. The name of its folder has its fingerprint, so that cells of other settings stay.

    Args:
        budgets: None: the run file's steps or epochs.
    """
    student = student_of(run, cell.method, cell.student)
    if student.weight_key:
        student = student.model_copy(update={student.weight_key: cell.setting.weight})
    if cell.treatment == "gold-else-teacher":
        student = student.model_copy(update={"labels": "gold-else-teacher"})
    training: dict[str, Any] = {
        "seed": cell.seed,
        "fraction": cell.fraction,
        "learning_rate": cell.setting.learning_rate,
    }
    if cell.setting.steps is not None:
        training |= {"steps": cell.setting.steps, "epochs": None}
    elif budgets is not None:
        training |= budgets.of(cell)
    made = run.model_copy(update={"student": student, "training": run.training.model_copy(update=training)})
    if treatment := cell.treated(run):
        labels = treated_manifest(labels, treatment)
    mark = fingerprint(train_identity(made, task, labels))[:8]
    kind = "" if cell.treatment is None else f"-{cell.treatment}"
    share = "" if cell.gold_fraction is None else f"-{cell.gold_fraction:g}"
    name = f"{student_name(cell.student)}-{cell.method}{kind}{share}-{cell.fraction:g}-seed{cell.seed}-{mark}"
    return made.model_copy(update={"output": join(Store(run.output).uri, f"compare/cells/{name}")})
