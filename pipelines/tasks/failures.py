"""Errors that a task's own code raises on one row. They become the `detail` of that row's reject and never end a run.

    the task raised KeyError: 'answer' (sentiment.py, line 12, in parse)

Also checked here: what a task returns. A label that is no text would end the whole block, not this row.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from pipelines.tasks.base import Answer, Example, is_unicode

RAISED = "the task raised "
"""Beginning of every such detail. Counts and the allowed share go by it."""
_MESSAGE_CHARACTERS = 300


def failure_detail(error: BaseException) -> str:
    """Type, message and last frame of an error in task code."""
    return RAISED + described(error)


def described(error: BaseException) -> str:
    """`KeyError: 'answer' (sentiment.py, line 12, in parse)`."""
    message = " ".join(str(error).split())
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[: _MESSAGE_CHARACTERS - 3] + "..."
    return (
        f"{type(error).__name__}: {message}{place_of(error)}" if message else f"{type(error).__name__}{place_of(error)}"
    )


def place_of(error: BaseException) -> str:
    """` (sentiment.py, line 12, in parse)`: the last frame. Empty without a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""


def checked_example(example: object) -> Example:
    """What `Task.read` returned. Raises TypeError or ValueError if it is no Example of texts."""
    if not isinstance(example, Example):
        raise TypeError(f"read returned a {type(example).__name__}, must be an Example")
    texts = {"id": example.id, "input": example.input, "gold": "" if example.gold is None else example.gold}
    for name, text in [*texts.items(), *(("choices", choice) for choice in example.choices)]:
        _check_text(text, f"read returned {name}")
    return example


def checked_answer(answer: object) -> Answer:
    """What `Task.parse` returned. Raises TypeError or ValueError if it is no Answer of texts."""
    if not isinstance(answer, Answer):
        raise TypeError(f"parse returned a {type(answer).__name__}, must be an Answer")
    for name in ("label", "rationale", "note"):
        _check_text(getattr(answer, name), f"parse returned {name}")
    return answer


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} {text!r:.60}, must be text")
    if not is_unicode(text):
        raise ValueError(f"{what} with a lone surrogate, must be valid Unicode")
