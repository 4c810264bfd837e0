"""Run it: python -m pytest test_booking.py"""

from pathlib import Path

import pytest

from pipelines.errors import UnparsableError
from pipelines.tasks import load_task, task_spec

TASK = load_task(task_spec(str(Path(__file__).with_name("booking.py"))))


def test_an_answer_is_read_and_anything_else_refused():
    example = TASK.read({"id": 1, "text": "Four of us come on 9 March.", "gold": "4 on 9-mar"})
    assert example.gold == "4 on 09-Mar"
    answer = TASK.parse("They are four. The answer is 4 on 09-Mar.", example)
    assert (answer.label, answer.rationale, TASK.value(answer.label)) == (example.gold, "They are four.", "4")
    with pytest.raises(UnparsableError):
        TASK.parse("The answer is soon.", example)
