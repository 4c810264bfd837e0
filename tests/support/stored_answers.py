"""Folders with stored answers, and their lookup in this process, without Ray."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.schema import EXAMPLE
from pipelines.label.answers.labeller import Labeller
from pipelines.label.answers.outcomes import outcome_table
from pipelines.label.output.parts import write_parts
from pipelines.label.stored.index import AnswerIndex, Problem, _merged, _read_keys
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.lookup import StoredAnswers
from pipelines.label.stored.sources import TextFile
from pipelines.label.teachers.base import Access, Teacher
from pipelines.label.teachers.registry import teacher_class
from pipelines.storage.store import Store
from pipelines.tasks import Example, load_task, task_spec


def examples(*numbers: int) -> list[Example]:
    """Word problems by their numbers."""
    return [Example(f"r{n}", f"Anne has {n} apples. How many?", f"{n} + 0") for n in numbers]


def keys_of(run: RunConfig) -> AnswerKeys:
    """The keys of a run's prompts."""
    return AnswerKeys.of_run(run, run.teacher.model)


def write_answers(
    run: RunConfig, folder: Path, number: int, rows: Sequence[Example], teacher: Teacher | None = None
) -> TextFile:
    """Label the rows with a teacher, by default the run's, as one commit. Returns the file of their texts."""
    task, store = load_task(task_spec(run.task)), Store(str(folder))
    labeller = Labeller(run, task, None, keys_of(run))
    teacher = teacher or teacher_class(run.teacher.engine).start(run.teacher, task, Access())

    async def label() -> list[Any]:
        return [await labeller.label("train", row, teacher.answer) for row in rows]

    names = write_parts(store, number, outcome_table(asyncio.run(label())))
    return TextFile(store, next(name for name in names if name.startswith("texts/")))


def index_of(*files: TextFile) -> tuple[AnswerIndex, list[Problem]]:
    """The index of files, and the files that are damaged."""
    part, problems = _read_keys(files, 0)
    return _merged(part), problems


def taken_over(run: RunConfig, rows: Sequence[Example], *files: TextFile) -> pa.Table:
    """The outcomes of those rows that take over an answer."""
    fields = ("id", "input", "gold", "choices")
    block = [{"split": "train", **{name: getattr(row, name) for name in fields}} for row in rows]
    answers = StoredAnswers(run, task_spec(run.task), None, keys_of(run), files)
    found = list(answers.outcomes(pa.Table.from_pylist(block, schema=EXAMPLE), index_of(*files)[0], "here"))
    return pa.concat_tables([outcome_table([]), *found])
