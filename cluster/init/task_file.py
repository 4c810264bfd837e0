"""The text of a task file and of its test, for `raystill init --task`. Both run as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_TASK = '''"""The task of this corpus: what the teacher reads, how its answer is read, and when a label is right."""

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks import Answer, Example, Shot, Task


class OwnTask(Task):
    name = {name!r}
    version = "1"  # raise it if prompt, labels or scoring change: labels of another version are not mixed
    parser = "1"  # raise it if `parse` changes
    required = ("input",)  # fields that `read` needs; corpus.fields names their columns
    labels = {labels}  # None: free answers
    instruction = {instruction!r}
    shots = (  # what the teacher imitates: give real reasons
{shots}
    )

    def read(self, row):
        """A row of the corpus -> Example. `row` has the fields of `required`, id, and gold (None without a gold label)."""
        text, gold = row["input"], row["gold"]
        if not isinstance(text, str) or not text.strip():
            raise BadRowError("field `input` must be text that is not empty")
        example = Example(str(row["id"]), text.strip(), None)
        if gold is None:
            return example
        try:
            return Example(example.id, example.input, self.normalise(str(gold), example))
        except UnparsableError as error:
            raise BadRowError(f"the gold label: {{error}}") from error

    def parse(self, text, example):
        """The teacher's text -> label and rationale."""
        rationale, found, label = text.partition("The answer is ")
        if not found:
            raise UnparsableError("no `The answer is` in the text")
        return Answer(self.normalise(label.partition("\\n")[0], example), rationale.strip())

    def normalise(self, label, example):
        """The one form of a label, for votes and scores."""
        found = label.strip().rstrip(".").strip()
        for known in self.labels or (found,):
            if found and found.casefold() == known.casefold():
                return known
        raise UnparsableError(f"{{found[:60]!r}} is not a label")
'''

_TEST = '''"""Run it: python -m pytest {test_name}"""

from pathlib import Path

import pytest

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks import load_task, task_spec

TASK = load_task(task_spec(str(Path(__file__).with_name({task_name!r}))))
LABEL = (TASK.labels or ("some answer",))[0]


def test_a_row_becomes_an_example():
    example = TASK.read({{"id": "1", "input": " A text. ", "gold": LABEL}})
    assert (example.id, example.input, example.gold) == ("1", "A text.", LABEL)
    assert TASK.read({{"id": "1", "input": "A text.", "gold": None}}).gold is None


def test_a_row_without_text_is_refused():
    with pytest.raises(BadRowError):
        TASK.read({{"id": "1", "input": "", "gold": None}})


def test_an_answer_is_read():
    example = TASK.read({{"id": "1", "input": "A text.", "gold": None}})
    answer = TASK.parse(f"Some reason. The answer is {{LABEL}}.", example)
    assert (answer.label, answer.rationale) == (LABEL, "Some reason.")
    with pytest.raises(UnparsableError):
        TASK.parse("I do not know.", example)


def test_the_examples_can_be_read():
    """A teacher imitates them, so `parse` must read them."""
    for shot in TASK.shots:
        assert TASK.parse(shot.answer, TASK.shot_example(shot.question)).label
'''
_SAMPLE = (
    {"input": "I slept well and will be back.", "rationale": "The guest wants to return.", "label": "good"},
    {"input": "The room was cold and loud.", "rationale": "The guest complains about the room.", "label": "bad"},
)


def task_text(name: str, instruction: str, labels: Sequence[str] | None, examples: Sequence[Mapping[str, str]]) -> str:
    """The task file. Without examples: two that are made up, of a task with the labels good and bad."""
    if not examples:
        examples, labels = _SAMPLE, labels or ("good", "bad")
        if set(labels) != {"good", "bad"}:
            examples = [{**one, "label": label} for one, label in zip(_SAMPLE, labels, strict=False)]
    answers = [f"{one['rationale']} The answer is {one['label']}." for one in examples]
    shots = "\n".join(
        f"        Shot({one['input']!r}, {answer!r})," for one, answer in zip(examples, answers, strict=True)
    )
    known = None if labels is None else tuple(labels)
    question = instruction if labels is None else f"{instruction} Labels: {', '.join(labels)}."
    return _TASK.format(name=name, labels=repr(known), instruction=question, shots=shots)


def test_of_task(task_name: str, test_name: str) -> str:
    """The test of the task file beside it."""
    return _TEST.format(task_name=task_name, test_name=test_name)
