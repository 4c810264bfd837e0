"""Rows that take over stored answers. In: blocks of examples. Out: outcomes of the rows whose prompt has been answered before.

A worker finds the places of some thousand examples' answers in the index, and reads these row groups once, in the order of the files. A
corpus in the order of the earlier one thus reads each file about once. In another order, it reads them once per `EXAMPLES_AT_A_TIME` rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.reader import DataSplit
from pipelines.data.schema import TEXT
from pipelines.label.answers.labeller import Labeller
from pipelines.label.answers.outcomes import OUTCOME, Outcome, outcome_table
from pipelines.label.stored.index import AnswerIndex, file_of, open_texts, row_of
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.sources import TextFile
from pipelines.label.stored.texts import stored_generation
from pipelines.label.teachers.base import Generation, Prompt
from pipelines.runtime.nodes import node_name
from pipelines.tasks import Example, Shot, TaskSpec, load_task

EXAMPLES_AT_A_TIME = 16_384
_ROWS_PER_BLOCK = 1024
_T = TypeVar("_T")


class _NotStoredError(Exception):
    """A prompt has no stored answer."""

    def __init__(self, prompt: Prompt) -> None:
        super().__init__()
        self.prompt = prompt


@dataclass(frozen=True)
class Answered:
    """A stored answer."""

    generation: Generation
    dtype: str | None
    paid_now: bool
    """True if a batch of this run has answered it: its tokens are charged."""


class MissingPrompt(NamedTuple):
    """A prompt without a stored answer."""

    key: bytes
    prompt: Prompt
    """Its example has the id alone."""


MISSING = pa.schema([("key", pa.binary()), ("id", pa.string()), ("text", pa.string()), ("messages", pa.string())])


@dataclass(frozen=True)
class StoredAnswers:
    """What a worker needs to look up the answers of one run."""

    run: RunConfig
    spec: TaskSpec
    shots: tuple[Shot, ...] | None
    keys: AnswerKeys
    files: Sequence[TextFile]

    def outcomes(self, block: pa.Table, index: AnswerIndex, node: str) -> Iterator[pa.Table]:
        """Outcomes (outcomes.OUTCOME) of those examples (schema.EXAMPLE) whose prompts all have an answer. `node`: this one."""
        for found in _batched(self._label(block, index), _ROWS_PER_BLOCK):
            outcomes = [one for one in found if isinstance(one, Outcome)]
            for outcome in outcomes:
                outcome.node = node
            yield outcome_table(outcomes)

    def missing(self, block: pa.Table, index: AnswerIndex) -> Iterator[pa.Table]:
        """The next prompt (MISSING) of each of the other examples."""
        for found in _batched(self._label(block, index), _ROWS_PER_BLOCK):
            prompts = [one for one in found if isinstance(one, Prompt)]
            columns = (
                [self.keys.of(prompt) for prompt in prompts],
                [prompt.example.id for prompt in prompts],
                [prompt.text for prompt in prompts],
                [json.dumps(prompt.messages) for prompt in prompts],
            )
            yield pa.table(
                [pa.array(column, field.type) for column, field in zip(columns, MISSING, strict=True)], MISSING
            )

    def _label(self, block: pa.Table, index: AnswerIndex) -> Iterator[Outcome | Prompt]:
        """For each example its outcome, or the prompt that has no answer."""
        labeller = Labeller(self.run, load_task(self.spec), self.shots, self.keys)
        rows = ((row["split"], _example(row)) for row in block.to_pylist())
        for some in _batched(rows, EXAMPLES_AT_A_TIME):
            prompts = [prompt for split, example in some for prompt in self._prompts(labeller, split, example)]
            answers = self._read([self.keys.of(prompt) for prompt in prompts], index)
            for split, example in some:
                try:
                    outcome = _result(self._outcome(labeller, split, example, answers))
                except _NotStoredError as error:
                    yield error.prompt
                else:
                    if (
                        outcome is not None and outcome.texts
                    ):  # without texts: the teacher actor rejects it with the reason
                        yield outcome

    def _prompts(self, labeller: Labeller, split: DataSplit, example: Example) -> Iterator[Prompt]:
        """The prompts that an example may need: its own and, if it may be rationalised, the one with a hint."""
        try:
            yield labeller.prompts.render(example)
            if self.run.teacher.filters.gold == "rationalise" and split == "train" and example.gold is not None:
                yield labeller.prompts.render(example, hint=True)
        except Exception:  # noqa: BLE001 - the task may be the user's code; the teacher actor rejects this row with the reason
            return

    async def _outcome(
        self, labeller: Labeller, split: DataSplit, example: Example, answers: Mapping[bytes, Answered]
    ) -> Outcome | None:
        used: list[Answered] = []

        async def answer(prompt: Prompt) -> Generation:
            found = answers.get(self.keys.of(prompt))
            if found is None:
                raise _NotStoredError(prompt)
            used.append(found)
            return found.generation

        outcome = await labeller.label(split, example, answer)
        if outcome is not None and used:
            outcome.dtype, outcome.stored = used[-1].dtype, not any(found.paid_now for found in used)
        return outcome

    def _read(self, keys: Sequence[bytes], index: AnswerIndex) -> dict[bytes, Answered]:
        """The answers to these keys. Reads each row group with one of them once."""
        places = index.find(keys)
        wanted = set(keys)
        answers: dict[bytes, Answered] = {}
        for number, there in itertools.groupby(np.unique(places[places >= 0]).tolist(), file_of):
            file = self.files[number]
            for row in _rows(file, [row_of(place) for place in there]):
                if row["key"] in wanted:  # the index has half of each key
                    found = Answered(stored_generation(row), row["dtype"], file.paid_now)
                    answers.setdefault(row["key"], found)
        return answers


def _result(coroutine: Coroutine[Any, Any, Outcome | None]) -> Outcome | None:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        found: Outcome | None = stop.value
        return found
    raise RuntimeError("the lookup of a stored answer waits")


def _batched(items: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while some := list(itertools.islice(items, size)):
        yield some


def _rows(file: TextFile, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows of a file, by their numbers, sorted."""
    with open_texts(file) as parquet:
        begin, at = 0, 0
        for group in range(parquet.num_row_groups):
            end = begin + parquet.metadata.row_group(group).num_rows
            to = at
            while to < len(numbers) and numbers[to] < end:
                to += 1
            if to > at:
                table = parquet.read_row_group(group, columns=TEXT.names)
                yield from table.take([number - begin for number in numbers[at:to]]).to_pylist()
            begin, at = end, to


def _example(row: Mapping[str, Any]) -> Example:
    """`row`: of schema.EXAMPLE."""
    return Example(row["id"], row["input"], row["gold"], tuple(row["choices"]))


def look_up(block: pa.Table, answers: Any, index: Any) -> Iterator[pa.Table]:
    """StoredAnswers.outcomes for Ray Data. `answers`, `index`: StoredAnswers and an AnswerIndex, or references to them."""
    stored, found = _fetched(answers, index)
    yield OUTCOME.empty_table()
    yield from stored.outcomes(block, found, node_name())


def find_missing(block: pa.Table, answers: Any, index: Any) -> Iterator[pa.Table]:
    """StoredAnswers.missing for Ray Data."""
    stored, found = _fetched(answers, index)
    yield MISSING.empty_table()
    yield from stored.missing(block, found)


def missing_prompts(table: pa.Table) -> Iterator[MissingPrompt]:
    """The rows of a table of MISSING."""
    for row in table.to_pylist():
        messages = tuple(json.loads(row["messages"]))
        yield MissingPrompt(row["key"], Prompt(Example(row["id"], "", None), row["text"], messages))


def _fetched(answers: Any, index: Any) -> tuple[StoredAnswers, AnswerIndex]:
    import ray

    stored, found = (ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in (answers, index))
    return stored, found
