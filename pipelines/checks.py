"""What is checked before Ray starts: one ordered list for every command. Each check raises UserError and writes nothing,
except that the embedded teacher is downloaded into the cache.

The stages repeat the checks of their own input, since they also run as library calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.runtime.extras import require_extra, require_vllm

CheckedStage = Literal["label", "train", "evaluate", "compare"]
COMMANDS: dict[str, tuple[CheckedStage, ...]] = {
    "label": ("label",),
    "train": ("train",),
    "evaluate": ("evaluate",),
    "run": ("label", "train", "evaluate"),
    "compare": ("label", "compare"),
}
"""The stages that each command executes."""


class Needs(IntEnum):
    """What a check reads. A command passes the most that it has."""

    RUN_FILE = 0
    """`submit`: the inputs may be visible to the cluster only."""
    INPUTS = 1
    """`plan`: corpus, models and artifacts, but nothing that only the run itself needs."""
    MACHINE = 2
    """The commands that run stages: installed packages and environment variables, too."""


@dataclass(frozen=True)
class Check:
    """One entry of the list."""

    check: Callable[[RunConfig], None]
    applies: Callable[[Set[CheckedStage]], bool]
    needs: Needs


def check_run(run: RunConfig, stages: Iterable[CheckedStage], needs: Needs = Needs.MACHINE) -> None:
    """Check a run for a command that executes `stages`. Raises UserError from the first check that fails."""
    wanted = frozenset(stages)
    for entry in CHECKS:
        if entry.needs <= needs and entry.applies(wanted):
            entry.check(run)


def warnings(run: RunConfig, stages: Iterable[CheckedStage]) -> list[str]:
    """What a command that passed its checks still says before it starts: of the corpus, if it is labelled."""
    from pipelines.corpus_checks import corpus_warnings

    return list(corpus_warnings(run)) if "label" in stages else []


def _label_packages(run: RunConfig) -> None:
    require_extra("label")
    if run.teacher.engine == "vllm":
        require_vllm()


def _train_packages(run: RunConfig) -> None:
    require_extra("train")


def _embedded_model(run: RunConfig) -> None:
    """Download the embedded teacher if the run names it."""
    from pipelines.storage.cache_folder import embedded_model_folder
    from pipelines.students.embedded_teacher import embedded_teacher

    if str(embedded_model_folder()) in (run.teacher.model, run.student.model, *(run.compare.students or ())):
        embedded_teacher()


def _token_logprobs(run: RunConfig) -> None:
    """Refuse to label without the token log-probabilities that a method learns from."""
    if run.teacher.token_logprobs is None and METHODS[run.student.method].learns_teacher_tokens:
        _raise_token_logprobs(f"student.method {run.student.method}")


def _grid_token_logprobs(run: RunConfig) -> None:
    for method in run.compare.methods:
        if run.teacher.token_logprobs is None and METHODS[method].learns_teacher_tokens:
            _raise_token_logprobs(f"compare.methods {method}")


def _raise_token_logprobs(value: str) -> None:
    rule = "learns the teacher's distributions over tokens, and teacher.token_logprobs is not set"
    raise UserError(value, rule, "Set teacher.token_logprobs: 20 (engine vllm), or choose another method.")


def _validation(run: RunConfig) -> None:
    from pipelines.train.checks import check_validation

    check_validation(run)


def _label(run: RunConfig) -> None:
    from pipelines.label.stage import check_label

    check_label(run)


def _credentials(run: RunConfig) -> None:
    from pipelines.label.teachers.registry import teacher_class

    teacher_class(run.teacher.engine).key(run.teacher)


def _student_given(run: RunConfig) -> None:
    if not run.has_student:
        rule = "it is missing; every stage but label needs it"
        raise UserError("student.model", rule, "Add `student: {model: HUB_ID_OR_FOLDER}` to the run file.")


def _student_model(run: RunConfig) -> None:
    from pipelines.students.decoding import check_model

    check_model(run.student.model, "student.model")


def _student_settings(run: RunConfig) -> None:
    """Refuse settings that do not fit the student, as training and evaluation do later, before anything is labelled.

    A student of the hub is not looked at: a cluster's nodes may have it, and this machine not.
    """
    from pathlib import Path

    from pipelines.evaluate.quantized import check_weights
    from pipelines.scoring.sources import check_engine
    from pipelines.storage.store import Store
    from pipelines.train.checks import token_settings

    if Path(run.student.model).expanduser().is_dir() and not Store(run.output).child("labels").exists():
        family = token_settings(run).family
        check_weights(run.evaluation, family)
        check_engine(run, family)


def _validation_file(run: RunConfig) -> None:
    from pipelines.data.reader import corpus_files

    if isinstance(run.corpus.validation, str):
        corpus_files(run.corpus.validation, "corpus.validation")


def _grid(run: RunConfig) -> None:
    from pipelines.compare.checks import check_compare

    check_compare(run)


def _gold(run: RunConfig) -> None:
    from pipelines.corpus_checks import check_gold

    check_gold(run)


def _grid_gold(run: RunConfig) -> None:
    from pipelines.corpus_checks import check_grid_gold

    check_grid_gold(run)


def _scored(run: RunConfig) -> None:
    from pipelines.corpus_checks import check_scored

    check_scored(run)


def _reachable(run: RunConfig) -> None:
    """Refuse a remote teacher whose endpoint does not answer, or a model that this machine cannot get."""
    from pipelines.label.teachers.reach import check_reachable
    from pipelines.students.decoding.hub_models import check_available

    if run.teacher.engine == "openai":
        check_reachable(run.teacher)
    elif run.teacher.engine == "vllm":
        check_available(run.teacher.model or "", "teacher.model")


def _hub_students(run: RunConfig) -> None:
    from pipelines.students.decoding.hub_models import check_available

    check_available(run.student.model, "student.model")


def _hub_grid(run: RunConfig) -> None:
    from pipelines.compare.grid import students_of
    from pipelines.students.decoding.hub_models import check_available

    for model in students_of(run):
        check_available(model, "compare.students")


def _constrained(run: RunConfig) -> None:
    """Refuse `evaluation.constrained` for free labels before anything is labelled."""
    from pipelines.students.decoding.constrained import check_constrained
    from pipelines.tasks import load_task, task_spec

    if run.evaluation.constrained:
        task = load_task(task_spec(run.task, run.task_options))
        check_constrained("evaluation.constrained", run.student.method, task)


def _trackers(run: RunConfig) -> None:
    from pipelines.train.tracking.services import check_trackers

    check_trackers(run.training)


def _labels(run: RunConfig) -> None:
    from pipelines.train.stage import check_train

    check_train(run)


def _student(run: RunConfig) -> None:
    from pipelines.evaluate.stage import check_evaluate

    check_evaluate(run)


def _heldout_apart(run: RunConfig) -> None:
    from pipelines.evaluate.checks import check_apart

    check_apart(run)


CHECKS: tuple[Check, ...] = (
    Check(_label_packages, lambda stages: "label" in stages, Needs.MACHINE),
    Check(_train_packages, lambda stages: bool({"train", "evaluate", "compare"} & stages), Needs.MACHINE),
    Check(_student_given, lambda stages: bool({"train", "evaluate", "compare"} & stages), Needs.RUN_FILE),
    Check(_token_logprobs, lambda stages: {"label", "train"} <= stages, Needs.RUN_FILE),
    Check(_grid_token_logprobs, lambda stages: "compare" in stages, Needs.RUN_FILE),
    Check(_validation, lambda stages: "train" in stages, Needs.RUN_FILE),
    Check(_validation_file, lambda stages: bool({"train", "compare"} & stages), Needs.INPUTS),
    Check(_embedded_model, lambda stages: True, Needs.INPUTS),
    Check(_constrained, lambda stages: bool({"evaluate", "compare"} & stages), Needs.INPUTS),
    Check(_grid, lambda stages: "compare" in stages, Needs.INPUTS),
    Check(_label, lambda stages: "label" in stages, Needs.INPUTS),
    Check(_gold, lambda stages: {"label", "train"} <= stages, Needs.INPUTS),
    Check(_grid_gold, lambda stages: {"label", "compare"} <= stages, Needs.INPUTS),
    Check(_scored, lambda stages: "label" in stages and bool({"evaluate", "compare"} & stages), Needs.MACHINE),
    Check(_credentials, lambda stages: "label" in stages, Needs.MACHINE),
    Check(_student_model, lambda stages: "train" in stages, Needs.INPUTS),
    Check(_trackers, lambda stages: bool({"train", "compare"} & stages), Needs.MACHINE),
    Check(_labels, lambda stages: "train" in stages and "label" not in stages, Needs.INPUTS),
    Check(_student, lambda stages: "evaluate" in stages and "train" not in stages, Needs.INPUTS),
    Check(_hub_students, lambda stages: "train" in stages, Needs.MACHINE),
    Check(_hub_grid, lambda stages: "compare" in stages, Needs.MACHINE),
    Check(_heldout_apart, lambda stages: "label" in stages and bool({"evaluate", "compare"} & stages), Needs.INPUTS),
    # Last, because they may take seconds.
    Check(_reachable, lambda stages: "label" in stages, Needs.MACHINE),
    Check(_student_settings, lambda stages: {"label", "train"} <= stages, Needs.MACHINE),
)
