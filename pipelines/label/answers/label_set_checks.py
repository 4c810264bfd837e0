"""Checks of teacher settings that need a closed label set, before an engine starts."""

from __future__ import annotations

from pipelines.config import TeacherConfig
from pipelines.errors import UnparsableError, UserError
from pipelines.tasks import Answer, Example, Task


def check_closed_labels(teacher: TeacherConfig, task: Task) -> None:
    """Raise UserError if a setting has no effect on free labels, or if a constrained answer cannot be parsed back to its label."""
    if not task.is_closed:
        free = f"task {task.name} has free labels"
        if teacher.constrained:
            raise UserError("teacher.constrained", f"no effect: {free}", "Remove it, or give the task a label set.")
        if teacher.soft_labels == "logprobs":
            rule = f"{free}, no closed set to have probabilities"
            raise UserError("teacher.soft_labels logprobs", rule, "Set soft_labels: votes.")
    if not teacher.constrained:
        return
    example = Example("", "", None)
    for label in task.labels or ():
        text = task.render(Answer(label, "Because it is so."))
        try:
            parsed = task.parse(text, example).label
        except UnparsableError as error:
            parsed = str(error)
        if parsed != label:
            rule = f"the parser reads {text!r} as {parsed!r}"
            raise UserError(f"teacher.constrained: label {label!r}", rule, "Rename the label.")
