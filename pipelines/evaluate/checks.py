"""Checks of `raystill evaluate`: student and labels must be of the same task, and of the run.

`check_apart` runs earlier, in commands that label and train first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.config import RunConfig, StudentConfig
from pipelines.data.heldout import has_heldout_files, heldout_examples, is_validation, validation_share
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.evaluate.validation_split import same_validation, validation_of
from pipelines.reuse import changes
from pipelines.scoring.contamination import shared_with, trained_on_part
from pipelines.scoring.heldout_part import heldout_key, scored_examples
from pipelines.storage.fingerprint import fingerprint, model_fingerprint
from pipelines.storage.manifest import Manifest, read_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task, load_task, task_spec


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
    found = shared_with(_training_rows(run, task), examples, with_near=False)
    trained_on_part(found, len(examples), heldout_key(run))


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
    if student.provenance["labels"]["fingerprint"] != labels.fingerprint:
        rule = "it was trained on other labels than OUTPUT/labels"
        raise UserError(folder, rule, "Run `raystill train RUN --replace`, or set another output.")
    if found := changes(_trained_with(student), _wanted(run)):
        rule = f"it was trained with other settings ({found})"
        raise UserError(folder, rule, "Run `raystill train RUN --replace`, or correct the run.")
    _check_validation(run, student)


def _trained_with(student: Manifest) -> dict[str, object]:
    """What decided a student, and the untrained one that it is compared with."""
    task, settings = student.details["task"], StudentConfig.model_validate(student.config["student"])
    return _decided(
        settings, student.identity["student"]["model"], student.identity["training"]["seed"], task["options"], task["source"],
    )  # fmt: skip


def _wanted(run: RunConfig) -> dict[str, object]:
    spec = task_spec(run.task, run.task_options)
    return _decided(run.student, model_fingerprint(run.student.model), run.training.seed, spec.options, spec.source)


def _decided(
    student: StudentConfig, model: str, seed: int, options: Mapping[str, object], source: str | None
) -> dict[str, object]:
    drawn = {"training": {"seed": seed}} if student.init.kind == "random" else {}
    hashed = None if source is None else fingerprint({"source": source})[:12]
    return {
        "student": {**student.effective(), "model": model},
        "task_options": options,
        "task_file": hashed,
        **drawn,
    }


def _check_validation(run: RunConfig, student: Manifest) -> None:
    """Refuse to score another share of train than the training held out: some of its rows were trained on."""
    trained_with, share = validation_of(student), run.corpus.validation
    if run.corpus.test is None and isinstance(share, float) and not same_validation(run, student):
        rule = f"this share of train is scored, and the student was trained with corpus.validation {trained_with}"
        remedy = f"Set corpus.validation: {trained_with}, set corpus.test, or run `raystill train RUN --replace`."
        raise UserError(f"corpus.validation {share:g}", rule, remedy)
