"""What a task reads from a text, for tables of readable and unreadable texts."""

from pipelines.errors import UnparsableError
from pipelines.tasks import Answer, Example, Task


def parsed(task: Task, text: str, example: Example) -> Answer | None:
    """The answer; None if the text is unparsable."""
    try:
        return task.parse(text, example)
    except UnparsableError:
        return None
