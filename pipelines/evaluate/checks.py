"""What `raystill evaluate` refuses of a finished student and its labels: what is of another task, of other labels, or of another run."""

from __future__ import annotations

from pipelines.artifacts import Manifest, Store, model_fingerprint
from pipelines.config import RunConfig, StudentConfig
from pipelines.corpus import validation_identity
from pipelines.errors import UserError
from pipelines.tasks import Task

_TRAIN_ANEW = "Run `raystill train RUN --replace`, or correct the run."


def check_belongs(run: RunConfig, task: Task, student: Manifest, labels: Manifest) -> None:
    """Refuse what is of another task, a student of other labels, and one trained otherwise than the run says. Raises UserError."""
    output = Store(run.output)
    for kind, manifest, command in (("labels", labels, "label RUN"), ("student", student, "train RUN")):
        made_for = manifest.details["task"]
        if made_for["name"] not in (task.name, run.task) or made_for["version"] != task.version:
            rule = f"it is for task {made_for['name']} {made_for['version']}, the run's is {task.name} {task.version}"
            raise UserError(output.shown(kind), rule, f"Run `raystill {command} --replace`, or set another output.")
    where = output.shown("student")
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
