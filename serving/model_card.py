"""Cards of students. In: student folders. Out: the facts of their manifests that the endpoint needs, without loading a model.

StudentCard(name="svamp", folder="runs/svamp/student", method="step-by-step", family="encoder-decoder",
            parameters=247577856, max_input_tokens=1024, task=TaskSpec("arithmetic"), fingerprint="9f...", ...)
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.storage.fingerprint import FileHash
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.students.chat_prompt import PromptKind
from pipelines.students.content import content_id, student_files
from pipelines.students.decoding import Family, check_student_files
from pipelines.tasks.base import TaskSpec

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
StudentName = Annotated[str, Field(pattern=NAME_PATTERN)]


@dataclass(frozen=True)
class StudentCard:
    """A finished student, from its manifest."""

    name: str
    """The model name that requests use."""
    version: str | None
    """Set if a name has several students."""
    folder: str
    method: str
    family: Family
    parameters: int
    max_input_tokens: int
    max_target_tokens: int
    task: TaskSpec
    fingerprint: str
    """Of settings and inputs."""
    content: str
    """Of the files (students/content.py). A student that is trained again with the same settings has another one."""
    created_s: int
    """Seconds since 1970."""
    provenance: Mapping[str, Any]
    prompt: PromptKind = "plain"
    """chat: it reads conversations (students/chat_prompt.py)."""

    @property
    def id(self) -> str:
        """NAME or NAME@VERSION; unique in an endpoint."""
        return self.name if self.version is None else f"{self.name}@{self.version}"

    def is_expected(self, identity: str | None) -> bool:
        """True for the content, for the fingerprint that configurations of 0.1 name, and for None."""
        return identity in (None, self.content, self.fingerprint)

    @property
    def has_rationale(self) -> bool:
        """True if the student was trained to write rationales."""
        return METHODS[self.method].writes_rationales


class _TaskDetails(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    options: dict[str, Any] = {}
    source: str | None = None


class _Details(BaseModel):
    """The part of a student manifest's `details` that the endpoint needs."""

    model_config = ConfigDict(extra="ignore")

    method: str
    family: Family
    parameters: int
    max_input_tokens: int
    max_target_tokens: int
    task: _TaskDetails
    files: dict[str, FileHash] = {}


def read_card(student_id: str, folder: str, *, task_code: bool = False, fingerprint: str | None = None) -> StudentCard:
    """The card of a student folder or URI.

    Args:
        student_id: NAME or NAME@VERSION.
        task_code: accept a task that is code of the student. Reading a card never runs it.
        fingerprint: content of the student that is expected, or its fingerprint; None: any.

    Raises:
        UserError: an invalid name, a missing folder, an unfinished or another student, weights that are not safetensors, a model with
            code, a method that needs the teacher, or a task with code that is not accepted.
    """
    name, sign, version = student_id.partition("@")
    try:
        for part in (name, version) if sign else (name,):
            TypeAdapter(StudentName).validate_python(part)
    except ValidationError as error:
        rule = "a name has at most 63 letters, digits, `.`, `_` and `-`"
        remedy = "Give NAME=FOLDER or NAME@VERSION=FOLDER with another name."
        raise UserError(f"student name {student_id!r}", rule, remedy) from error
    store = Store(folder)
    if not store.exists():
        raise UserError(store.shown(), "the folder does not exist", "Give the folder of a student: OUTPUT/student.")
    if not store.exists(MANIFEST) and store.exists(f"student/{MANIFEST}"):
        rule = "it is the output of a run, which holds the student in a folder"
        raise UserError(store.shown(), rule, f"Give that folder: {store.shown('student')}.")
    manifest = require_manifest(store, "student", "train RUN")
    try:
        details = _Details.model_validate(manifest.details)
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise UserError(
            store.shown(), f"its manifest's details lack a valid {missing}", "Train the student again."
        ) from error
    _check_servable(store, details.method)
    if details.task.source is not None and not task_code:
        rule = "its task is code, which would run here"
        raise UserError(store.shown(), rule, "If you trust it, add --set serving.task_code=true.")
    student = manifest.config.get("student")
    card = StudentCard(
        name=name,
        version=version if sign else None,
        folder=store.uri,
        method=details.method,
        family=details.family,
        parameters=details.parameters,
        max_input_tokens=details.max_input_tokens,
        max_target_tokens=details.max_target_tokens,
        task=TaskSpec(details.task.name, details.task.options, details.task.source),
        fingerprint=manifest.fingerprint,
        content=content_id(student_files(store, manifest)),
        created_s=int(datetime.datetime.fromisoformat(manifest.created).timestamp()),
        provenance=manifest.provenance,
        prompt="chat" if isinstance(student, dict) and student.get("prompt") == "chat" else "plain",
    )
    if not card.is_expected(fingerprint):
        raise _another(store, card.content, str(fingerprint))
    return card


def check_unchanged(card: StudentCard) -> None:
    """Raises UserError if the folder now holds another student: replicas that start later would answer differently."""
    store = Store(card.folder)
    found = content_id(student_files(store, require_manifest(store, "student", "train RUN")))
    if found != card.content:
        raise _another(store, found, card.content)


def _another(store: Store, found: str, expected: str) -> UserError:
    rule = f"it holds another student ({found[:12]}) than the deployed one ({expected[:12]})"
    remedy = (
        "End `raystill serve` and repeat it to serve this one; on a cluster, repeat it with --detach. For a RayService, use a folder with "
        "another name."
    )
    return UserError(store.shown(), rule, remedy)


def _check_servable(store: Store, method: str) -> None:
    if method not in METHODS:
        rule = f"this version does not know its method {method}"
        raise UserError(store.shown(), rule, "Serve it with the version that trained it.")
    if METHODS[method].reads_rationale:
        rule = f"method {method} reads the teacher's rationale with every input, and no teacher answers here"
        raise UserError(store.shown(), rule, "Serve a student of another method, for example step-by-step.")
    check_student_files(store)
