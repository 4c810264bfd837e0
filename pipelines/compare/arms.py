"""The controls of a grid: which of them apply, and why the others do not.

In: the run file's `compare.arms`, the task and the labels. Out: the run with its arms, and a sentence for each arm:

    Arm(name="tf-idf", applies=False, note="labels are free")
"""

from __future__ import annotations

from typing import get_args

from pipelines.compare.grid import learns_rationales
from pipelines.compare.model import Arm
from pipelines.compare.treated_labels import gold_rows
from pipelines.config import RunConfig
from pipelines.config.compare import ArmName
from pipelines.data.label_parts import LabelParts
from pipelines.errors import UserError
from pipelines.methods import MethodName
from pipelines.tasks import Task

_BASELINE: MethodName = "finetune"


def grid_with_arms(run: RunConfig, labels: LabelParts, task: Task) -> tuple[RunConfig, list[Arm]]:
    """The run whose grid has the arms that apply, and all arms with the reason for those that do not.

    Raises:
        UserError: compare.gold_fractions is set, and no row has a gold label.
    """
    with_gold, rows = gold_rows(labels)
    if run.compare.gold_fractions and not with_gold:
        rule = f"none of {rows:,} labelled examples has a gold label"
        raise UserError("compare.gold_fractions", rule, "Give a corpus with gold labels, or remove the key.")
    arms = [_arm(run, name, task, with_gold, rows) for name in get_args(ArmName)]
    kept = [arm.name for arm in arms if arm.applies]
    methods = list(run.compare.methods)
    if "finetune" in kept and _BASELINE not in methods:
        methods.insert(0, _BASELINE)
    compare = run.compare.model_copy(update={"arms": kept, "methods": methods})
    return run.model_copy(update={"compare": compare}), arms


def _arm(run: RunConfig, name: ArmName, task: Task, with_gold: int, rows: int) -> Arm:
    if name not in run.compare.arms:
        return Arm(name=name, applies=False, note="compare.arms leaves it out")
    why = {
        "finetune": _why_no_finetune(run, with_gold, rows),
        "shuffled-rationales": _why_no_shuffling(run),
        "few-shot": _why_no_few_shot(run),
        "tf-idf": _why_no_tf_idf(task),
    }[name]
    return Arm(name=name, applies=not why, note=why)


def _why_no_finetune(run: RunConfig, with_gold: int, rows: int) -> str:
    if _BASELINE in run.compare.methods or with_gold == rows:
        return ""
    return f"{rows - with_gold:,} of {rows:,} labelled examples have no gold label"


def _why_no_shuffling(run: RunConfig) -> str:
    return "" if any(map(learns_rationales, run.compare.methods)) else "no method learns to write rationales"


def _why_no_few_shot(run: RunConfig) -> str:
    return "its weights are random before training" if run.student.init.kind == "random" else ""


def _why_no_tf_idf(task: Task) -> str:
    if task.labels is not None:
        return ""
    return "labels differ by example" if task.is_closed else "labels are free"
