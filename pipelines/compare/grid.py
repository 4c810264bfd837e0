"""The grid: its cells, the settings that a search tries, and the run of each cell.

In: the run file's `compare`. Out: cells. Each is a run of its own in OUTPUT/compare/cells, with the labels of the run:

    methods [finetune, step-by-step] x fractions [0.25, 1.0] x students [A] x seeds [0, 1]
      -> Cell(student A, finetune, 0.25, seed 0, Setting(learning_rate 1e-4, weight None)), ...
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from pipelines.config import CompareConfig, RunConfig, StudentConfig
from pipelines.errors import UserError
from pipelines.methods import METHODS, MethodName
from pipelines.storage.filesystems import join
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task
from pipelines.train.identity import train_identity

_STEP = 7
"""Trials take their weights in strides of this size, so that a high learning rate does not always meet a high weight."""


@dataclass(frozen=True)
class Setting:
    """Settings that a search chooses."""

    learning_rate: float
    weight: float | None
    """Of the method's loss (StudentConfig.weight_key); None if it has none."""


@dataclass(frozen=True)
class Cell:
    """One student to train and score."""

    student: str
    """Hub id or folder."""
    method: MethodName
    fraction: float
    seed: int
    setting: Setting

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{student_name(self.student)} {self.method} {self.fraction:.4g} seed {self.seed}"


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
    if search.trials == 1 or search.learning_rate is None:
        return [Setting(run.training.learning_rate, own)]
    low, high = (math.log(bound) for bound in search.learning_rate)
    places = [trial / (search.trials - 1) for trial in range(search.trials)]
    rates = [float(f"{math.exp(low + place * (high - low)):.3g}") for place in places]
    if student.weight_key is None or search.weight is None:
        return [Setting(rate, own) for rate in rates]
    weights = [round(search.weight[0] + place * (search.weight[1] - search.weight[0]), 3) for place in places]
    stride = _STEP if math.gcd(_STEP, search.trials) == 1 else 1
    shuffled = [weights[(trial * stride + search.trials // 2) % search.trials] for trial in range(search.trials)]
    return [Setting(rate, weight) for rate, weight in zip(rates, shuffled, strict=True)]


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
    """All cells: the whole grid of the first seed first, and small fractions first, so that reports show curves early."""
    compare = run.compare
    return [
        Cell(student, method, fraction, seed, chosen[student, method])
        for seed in compare.seeds
        for fraction in sorted(compare.fractions)
        for student in students_of(run)
        for method in compare.methods
    ]


def without_search(run: RunConfig) -> dict[tuple[str, MethodName], Setting]:
    """The setting of each student and method without a search."""
    return {(s, m): settings_of(run, m)[0] for s in students_of(run) for m in run.compare.methods}


def run_of(run: RunConfig, cell: Cell, task: Task, labels: Manifest) -> RunConfig:
    """The run that trains a cell. The name of its folder has its fingerprint, so that cells of other settings stay."""
    student = student_of(run, cell.method, cell.student)
    if student.weight_key:
        student = student.model_copy(update={student.weight_key: cell.setting.weight})
    training = {"seed": cell.seed, "fraction": cell.fraction, "learning_rate": cell.setting.learning_rate}
    made = run.model_copy(update={"student": student, "training": run.training.model_copy(update=training)})
    mark = fingerprint(train_identity(made, task, labels))[:8]
    name = f"{student_name(cell.student)}-{cell.method}-{cell.fraction:g}-seed{cell.seed}-{mark}"
    return made.model_copy(update={"output": join(Store(run.output).uri, f"compare/cells/{name}")})
