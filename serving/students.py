"""Students as the endpoint sees them. In: student folders. Out: cards, which say what a manifest says and load nothing
heavy, and engines, which answer in the replicas.

    StudentCard(name="svamp", folder="runs/svamp/student", method="step-by-step", family="encoder-decoder",
                parameters=247577856, max_input_tokens=1024, task=TaskSpec("arithmetic"), fingerprint="9f...", ...)
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipelines.artifacts import Store, require_manifest
from pipelines.decode import Decoded, Family, Student
from pipelines.errors import UserError
from pipelines.methods import FORMATS, NEEDS_A_TEACHER, Part, writes_rationales
from pipelines.tasks.base import TaskSpec

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
StudentName = Annotated[str, Field(pattern=NAME_PATTERN)]


@dataclass(frozen=True)
class StudentCard:
    """What a finished student says of itself."""

    name: str
    """The model name that requests use."""
    folder: str
    method: str
    family: Family
    parameters: int
    max_input_tokens: int
    task: TaskSpec
    fingerprint: str
    created_s: int
    """Seconds since 1970."""
    provenance: Mapping[str, Any]

    @property
    def has_rationale(self) -> bool:
        """Whether the student was trained to write rationales of its own."""
        return writes_rationales(self.method)


class _TaskDetails(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    options: dict[str, Any] = {}
    source: str | None = None


class _Details(BaseModel):
    """What the endpoint needs of a student manifest's `details`."""

    model_config = ConfigDict(extra="ignore")

    method: str
    family: Family
    parameters: int
    max_input_tokens: int
    task: _TaskDetails


def read_card(name: str, folder: str) -> StudentCard:
    """The card of a student folder or URI.

    Raises:
        UserError: the name cannot be one, the folder is missing or holds no finished student, its weights are not
            safetensors, or its method needs the teacher at serving time.
    """
    try:
        TypeAdapter(StudentName).validate_python(name)
    except ValidationError as error:
        rule = "a name has letters, digits, `.`, `_` and `-`, at most 63"
        raise UserError(f"student name {name!r}", rule, "Give NAME=FOLDER with another name.") from error
    store = Store(folder)
    if not store.exists():
        raise UserError(store.shown(), "there is no such folder", "Give the folder of a student: OUTPUT/student.")
    manifest = require_manifest(store, "student", "train RUN")
    try:
        details = _Details.model_validate(manifest.details)
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise UserError(store.shown(), f"its manifest's details lack {missing}", "Train the student anew.") from error
    _check_servable(store, details.method)
    return StudentCard(
        name=name,
        folder=store.uri,
        method=details.method,
        family=details.family,
        parameters=details.parameters,
        max_input_tokens=details.max_input_tokens,
        task=TaskSpec(details.task.name, details.task.options, details.task.source),
        fingerprint=manifest.fingerprint,
        created_s=int(datetime.datetime.fromisoformat(manifest.created).timestamp()),
        provenance=manifest.provenance,
    )


def _check_servable(store: Store, method: str) -> None:
    if method not in FORMATS:
        raise UserError(
            store.shown(), f"its method {method} is unknown here", "Serve it with the version that trained it."
        )
    if method == NEEDS_A_TEACHER:
        rule = f"method {method} reads the teacher's rationale with every input, and no teacher answers here"
        raise UserError(store.shown(), rule, "Serve a student of another method, for example step-by-step.")
    if not store.exists("config.json"):
        raise UserError(store.shown(), "it has no config.json", "Train the student anew.")
    if not store.files(suffix=".safetensors"):
        pickled = store.files(suffix=".bin")
        rule = f"its weights are pickled ({pickled[0]}), which can run code" if pickled else "it has no *.safetensors"
        raise UserError(store.shown(), rule, "Train the student anew, or convert its weights to safetensors.")


@dataclass(frozen=True)
class Question:
    """One input as the student reads it, without prefix."""

    text: str
    rationale: bool = False


@dataclass(frozen=True)
class Reply:
    """The student's answer to one question."""

    answer: Decoded
    """The label, or a text of rationale and label, by the method."""
    rationale: Decoded | None = None
    """Where it was asked for and is an answer of its own."""


@dataclass(frozen=True)
class TooLong:
    """Why a question was not answered."""

    tokens: int
    limit: int


class Engine:
    """A loaded student that answers batches of questions. Lives in a replica."""

    def __init__(self, card: StudentCard, *, max_new_tokens: int, gpu: bool, threads: int) -> None:
        import torch

        if not gpu:
            torch.set_num_threads(threads)
        self.student = Student.load(card.folder, device="cuda" if gpu else "cpu")
        self.max_new_tokens = max_new_tokens

    def answer(self, questions: Sequence[Question]) -> list[Reply | TooLong]:
        """One outcome per question, in order. Labels are one batch, the rationales that are asked for another."""
        form = FORMATS[self.student.method]
        too_long = {i: found for i, question in enumerate(questions) if (found := self._too_long(question))}
        fits = [i for i in range(len(questions)) if i not in too_long]
        answers = self._part(form.answer, questions, fits)
        with_rationale = [i for i in fits if form.prefixed and questions[i].rationale]
        rationales = self._part("rationale", questions, with_rationale)
        return [too_long.get(i) or Reply(answers[i], rationales.get(i)) for i in range(len(questions))]

    def _part(self, part: Part, questions: Sequence[Question], which: list[int]) -> dict[int, Decoded]:
        answers = self.student.answer([questions[i].text for i in which], part, self.max_new_tokens)
        return dict(zip(which, answers, strict=True))

    def _too_long(self, question: Question) -> TooLong | None:
        form = FORMATS[self.student.method]
        parts: tuple[Part, ...] = (form.answer, "rationale") if form.prefixed and question.rationale else (form.answer,)
        tokens = max(self.student.count_tokens(question.text, part) for part in parts)
        limit = self.student.max_input_tokens
        return TooLong(tokens, limit) if tokens > limit else None


def threads_per_replica(max_replicas: int) -> int:
    """Compute threads of a CPU replica: the physical cores that it may use, shared by all replicas there may be."""
    return max(1, _physical_cores(os.sched_getaffinity(0)) // max_replicas)


def _physical_cores(logical: set[int]) -> int:
    """Cores behind some logical CPUs: two hardware threads of one core compute no faster than one."""
    try:
        topology = [Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in logical]
    except OSError:
        return len(logical)
    return len(set(topology))
