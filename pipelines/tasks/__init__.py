"""Tasks, one file each. `load_task` loads a built-in task by name or a user's task file by path."""

from pipelines.tasks.base import Answer, Example, Shot, Task, TaskSpec
from pipelines.tasks.registry import load_task, task_spec

__all__ = ["Answer", "Example", "Shot", "Task", "TaskSpec", "load_task", "task_spec"]
