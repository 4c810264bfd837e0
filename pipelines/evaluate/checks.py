"""What `raystill evaluate` refuses of a finished student and its labels: what is of another task, of other labels, or of another run.

And what can be known beforehand of the held-out examples: `check_apart`, for commands that label and train first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipelines.config import RunConfig, StudentConfig
from pipelines.data.heldout import (
    has_heldout_files,
    heldout_examples,
    is_validation,
    validation_identity,
    validation_share,
)
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.reports.format import short
from pipelines.scoring.contamination import overlap_part, with_input_of
from pipelines.scoring.systems import heldout_key, scored_examples
from pipelines.storage.fingerprint import model_fingerprint
from pipelines.storage.manifest import Manifest, read_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task, load_task, task_spec

_TRAIN_ANEW = "Run `raystill train RUN --replace`, or correct the run."
_VALUE_CHARACTERS = 60


def check_apart(run: RunConfig) -> None:
    """Refuse, before anything is labelled, held-out files most of whose inputs are rows of corpus.train.

    Stricter than `evaluate` in the end, which looks at the rows that the labels have left, and less strict: near duplicates count there.
    A share of train is not looked at, nor anything where there are finished labels: of those evaluation and comparison ask it themselves.

    Raises:
        UserError: more than half of the held-out examples have the input of a training row, or none has a gold label.
    """
    if not has_heldout_files(run.corpus) or read_manifest(Store(run.output).child("labels"), "labels") is not None:
        return
    task = load_task(task_spec(run.task, run.task_options))
    examples = scored_examples(run, heldout_examples(run, task))
    overlap_part(with_input_of(_training_rows(run, task), examples), len(examples), heldout_key(run))


def _training_rows(run: RunConfig, task: Task) -> Iterator[tuple[str, str]]:
    """(id, input) of the rows of corpus.train that can be read, without those of a validation share."""
    share, files = validation_share(run.corpus.validation), corpus_files(run.corpus.train, "corpus.train")
    for split in corpus_splits(files, "train", limit=run.corpus.limit):
        for row in read_split(split, task, run.corpus.fields):
            if row.example is not None and not is_validation(row.id, share):
                yield row.id, row.example.input


def check_belongs(run: RunConfig, task: Task, student: Manifest, labels: Manifest) -> None:
    """Refuse what is of another task, a student of other labels, and one trained otherwise than the run says. Raises UserError."""
    output = Store(run.output)
    for kind, manifest, command in (("labels", labels, "label RUN"), ("student", student, "train RUN")):
        made_for = manifest.details["task"]
        if made_for["name"] not in (task.name, run.task) or made_for["version"] != task.version:
            rule = f"it is for task {made_for['name']} {made_for['version']}, the run's is {task.name} {task.version}"
            raise UserError(output.shown(kind), rule, f"Run `raystill {command} --replace`, or set another output.")
    where = output.shown("student")
    _check_task(run, student, where)
    if student.provenance["labels"]["fingerprint"] != labels.fingerprint:
        rule = "it was trained on other labels than those beside it"
        raise UserError(where, rule, "Run `raystill train RUN --replace`, or set another output.")
    trained_as = StudentConfig.model_validate(student.config["student"]).effective()
    asked = run.student.effective()
    for key in sorted({*trained_as, *asked}):
        if trained_as.get(key) != asked.get(key):
            rule = f"its student.{key} was {trained_as.get(key)}, the run says {asked.get(key)}"
            raise UserError(where, rule, _TRAIN_ANEW)
    _check_start(run, student, where)
    _check_validation(run, student)


def _check_task(run: RunConfig, student: Manifest, where: str) -> None:
    """A task is more than its name and version: its options and the content of a task file of one's own decide what is right, too."""
    spec, made_for = task_spec(run.task, run.task_options), student.details["task"]
    options, before = json.loads(json.dumps(spec.options)), made_for["options"]
    rules = [
        f"its task_options.{key} is {_value_said(key, before)}, the run's is {_value_said(key, options)}"
        for key in sorted({*before, *options})
        if before.get(key) != options.get(key)
    ]
    if made_for["source"] != spec.source:
        rules.append(f"it was trained with another content of the task file than {run.task} has")
    if rules:
        remedy = "Run `raystill label RUN --replace` and `raystill train RUN --replace`, restore the task, or set another output."
        raise UserError(where, rules[0], remedy)


def _value_said(key: str, options: dict[str, Any]) -> str:
    return short(json.dumps(options[key], ensure_ascii=False), _VALUE_CHARACTERS) if key in options else "not set"


def _check_start(run: RunConfig, student: Manifest, where: str) -> None:
    """The untrained student is made from the run: it has to be what this student was before its training."""
    if student.identity["student"]["model"] != model_fingerprint(run.student.model):
        before = student.config["student"]["model"]
        other = "has other files by now" if before == run.student.model else f"is not the run's, {run.student.model}"
        raise UserError(where, f"its student.model {before} {other}", _TRAIN_ANEW)
    trained_with = student.identity["training"]["seed"]
    if run.student.init.kind == "random" and trained_with != run.training.seed:
        rule = f"its random weights were drawn with training.seed {trained_with}, the run says {run.training.seed}"
        raise UserError(where, rule, _TRAIN_ANEW)


def _check_validation(run: RunConfig, student: Manifest) -> None:
    """Of another share some rows would be scored as held out that the student was trained on."""
    trained_with, share = validation_of(student), run.corpus.validation
    if run.corpus.test is None and isinstance(share, float) and not same_validation(run, student):
        rule = (
            f"this share of train is what is scored, and the student was trained with corpus.validation {trained_with}"
        )
        remedy = f"Set corpus.validation: {trained_with}, give corpus.test, or run `raystill train RUN --replace`."
        raise UserError(f"corpus.validation {share:g}", rule, remedy)


def validation_of(student: Manifest) -> float | str:
    """What the student was trained with as `corpus.validation`, whatever the run says by now."""
    validation: float | str = student.config["corpus"]["validation"]
    return validation


def same_validation(run: RunConfig, student: Manifest) -> bool:
    """Whether the run's `corpus.validation` is that of the student's training: the same share, or files of the same content."""
    return bool(student.identity["corpus"]["validation"] == validation_identity(run.corpus))
