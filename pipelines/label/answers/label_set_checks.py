"""Settings of the teacher that need a closed label set, checked before an engine is started."""

from __future__ import annotations

from pipelines.config import TeacherConfig
from pipelines.errors import UnparsableError, UserError
from pipelines.tasks import Answer, Example, Task


def check_closed_labels(teacher: TeacherConfig, task: Task) -> None:
    """Raises UserError where a setting has no effect with free labels, or a label cannot be read back from a constrained answer."""
    if not task.is_closed:
        free = f"task {task.name} has free labels"
        if teacher.constrained:
            raise UserError("teacher.constrained", f"no effect: {free}", "Remove it, or give the task a label set.")
        if teacher.soft_labels == "logprobs":
            rule = f"{free}, no closed set to have probabilities"
            raise UserError("teacher.soft_labels logprobs", rule, "Set soft_labels: votes.")
    if teacher.constrained:
        example = Example("", "", None)
        for label in task.labels or ():
            text = task.render(Answer(label, "Because it is so."))
            try:
                read = task.parse(text, example).label
            except UnparsableError as error:
                read = str(error)
            if read != label:
                rule = f"the parser reads {text!r} as {read!r}"
                raise UserError(f"teacher.constrained: label {label!r}", rule, "Rename the label.")
