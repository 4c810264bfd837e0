"""Checks of `raystill evaluate`: student and labels must be of the same task, and of the run.

`check_apart` runs earlier, in commands that label and train first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from pipelines.config import RunConfig, StudentConfig
from pipelines.data.heldout import has_heldout_files, heldout_examples, is_validation, validation_share
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.evaluate.validation_split import same_validation, validation_of
from pipelines.reports.format import short
from pipelines.scoring.contamination import trained_on_part, with_input_of
from pipelines.scoring.heldout_part import heldout_key, scored_examples
from pipelines.storage.fingerprint import model_fingerprint
from pipelines.storage.manifest import Manifest, read_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task, load_task, task_spec

_RETRAIN = "Run `raystill train RUN --replace`, or correct the run."
_VALUE_CHARACTERS = 60


def check_apart(run: RunConfig) -> None:
    """Refuse, before anything is labelled, held-out files that mostly repeat inputs of corpus.train.

    Without finished labels, only files can be checked. With finished labels, evaluation and comparison check the labels' own rows, of
    which filters may have removed some. They also count near duplicates, which this check ignores.

    Raises:
        UserError: more than half of the held-out examples have the input of a training row, or none has a gold label.
    """
    if not has_heldout_files(run.corpus) or read_manifest(Store(run.output).child("labels"), "labels") is not None:
        return
    task = load_task(task_spec(run.task, run.task_options))
    examples = scored_examples(run, heldout_examples(run, task))
    trained_on_part(with_input_of(_training_rows(run, task), examples), len(examples), heldout_key(run))


def _training_rows(run: RunConfig, task: Task) -> Iterator[tuple[str, str]]:
    """(id, input) of the readable rows of corpus.train, without the validation split."""
    share, files = validation_share(run.corpus.validation), corpus_files(run.corpus.train, "corpus.train")
    for split in corpus_splits(files, "train", limit=run.corpus.limit):
        for row in read_split(split, task, run.corpus.fields):
            if row.example is not None and not is_validation(row.id, share):
                yield row.id, row.example.input


def check_belongs(run: RunConfig, task: Task, student: Manifest, labels: Manifest) -> None:
    """Refuse artifacts of another task, a student of other labels, and a student trained with other settings. Raises UserError."""
    output = Store(run.output)
    for kind, manifest, command in (("labels", labels, "label RUN"), ("student", student, "train RUN")):
        other = manifest.details["task"]
        if other["name"] not in (task.name, run.task) or other["version"] != task.version:
            rule = f"it is for task {other['name']} {other['version']}, the run's is {task.name} {task.version}"
            raise UserError(output.shown(kind), rule, f"Run `raystill {command} --replace`, or set another output.")
    folder = output.shown("student")
    _check_task(run, student, folder)
    if student.provenance["labels"]["fingerprint"] != labels.fingerprint:
        rule = "it was trained on other labels than OUTPUT/labels"
        raise UserError(folder, rule, "Run `raystill train RUN --replace`, or set another output.")
    trained_with = StudentConfig.model_validate(student.config["student"]).effective()
    wanted = run.student.effective()
    for key in sorted({*trained_with, *wanted}):
        if trained_with.get(key) != wanted.get(key):
            rule = f"it was trained with student.{key} {trained_with.get(key)}, the run has {wanted.get(key)}"
            raise UserError(folder, rule, _RETRAIN)
    _check_start(run, student, folder)
    _check_validation(run, student)


def _check_task(run: RunConfig, student: Manifest, folder: str) -> None:
    """Compare task options and the content of a task file, which also decide what is right."""
    spec, other = task_spec(run.task, run.task_options), student.details["task"]
    options, before = json.loads(json.dumps(spec.options)), other["options"]
    rules = [
        f"it was trained with task_options.{key} {_value_text(key, before)}, the run has {_value_text(key, options)}"
        for key in sorted({*before, *options})
        if before.get(key) != options.get(key)
    ]
    if other["source"] != spec.source:
        rules.append(f"it was trained with another version of the task file {run.task}")
    if rules:
        remedy = "Run `raystill label RUN --replace` and `raystill train RUN --replace`, restore the task, or set another output."
        raise UserError(folder, rules[0], remedy)


def _value_text(key: str, options: Mapping[str, JsonValue]) -> str:
    return short(json.dumps(options[key], ensure_ascii=False), _VALUE_CHARACTERS) if key in options else "not set"


def _check_start(run: RunConfig, student: Manifest, folder: str) -> None:
    """The untrained student is made from the run: it must be what this student was before its training."""
    if student.identity["student"]["model"] != model_fingerprint(run.student.model):
        before = student.config["student"]["model"]
        other = "has changed since" if before == run.student.model else f"is not the run's, {run.student.model}"
        raise UserError(folder, f"its student.model {before} {other}", _RETRAIN)
    seed = student.identity["training"]["seed"]
    if run.student.init.kind == "random" and seed != run.training.seed:
        rule = f"its initial weights were drawn with training.seed {seed}, the run has {run.training.seed}"
        raise UserError(folder, rule, _RETRAIN)


def _check_validation(run: RunConfig, student: Manifest) -> None:
    """Refuse to score another share of train than the training held out: some of its rows were trained on."""
    trained_with, share = validation_of(student), run.corpus.validation
    if run.corpus.test is None and isinstance(share, float) and not same_validation(run, student):
        rule = f"this share of train is scored, and the student was trained with corpus.validation {trained_with}"
        remedy = f"Set corpus.validation: {trained_with}, set corpus.test, or run `raystill train RUN --replace`."
        raise UserError(f"corpus.validation {share:g}", rule, remedy)
