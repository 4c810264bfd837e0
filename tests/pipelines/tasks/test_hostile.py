"""No teacher's text may cost much: 100 KB of what the parsers look for, over and over, takes each task less than a second."""

from __future__ import annotations

import contextlib
import time

import pytest

from pipelines.errors import UnparsableError
from pipelines.tasks import Example, load_task, task_spec

CHARACTERS = 100_000
PIECES = ["answer is ", "The answer to ", "so the answer is (", "(", "(a) or ", "Q: ", ".  Q:", "####", "So 1 + 1 = 2. ", "1 + ", "1,", "9",
          "-", "= ", "\\boxed{", "\\boxed{1} ", "\\frac{1}{", "<|a", "**", "not ", "bus depot ", "neutral ", "\n", " ", "\u0130answer ",
          "\x00"]  # fmt: skip
TASKS = {
    "arithmetic": {},
    "multiple-choice": {},
    "nli": {},
    "grade-school-math": {},
    "classification": {"labels": ["spam", "not spam"]},
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("piece", PIECES, ids=repr)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("The answer is ", ", so it is 2.")])
def test_hostile_text_takes_less_than_a_second(name: str, piece: str, before: str, after: str) -> None:
    task = load_task(task_spec(name, dict(TASKS[name])))
    example = Example("a", "Where?", None, ("bus depot", "beach", "train station"))
    text = before + piece * (CHARACTERS // len(piece)) + after
    start = time.process_time()
    with contextlib.suppress(UnparsableError):
        task.parse(text, example)
    assert time.process_time() - start < 1.0
