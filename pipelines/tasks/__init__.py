"""Tasks: one file each. `load_task` finds a built-in one by name, or a user's own by path."""

from pipelines.tasks.base import Answer, Example, Shot, Task, TaskSpec
from pipelines.tasks.registry import load_task, task_spec

__all__ = ["Answer", "Example", "Shot", "Task", "TaskSpec", "load_task", "task_spec"]
