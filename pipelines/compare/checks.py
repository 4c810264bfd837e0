"""What `raystill compare` refuses: of the run file before anything is started, and of the labels before the first cell is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.compare import grid
from pipelines.compare.cells import Split, answers_of_teacher
from pipelines.compare.grid import Cell
from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.methods import rationale_readers
from pipelines.scoring.systems import check_rationales
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import check_model
from pipelines.tasks import Example, Task
from pipelines.train.checks import check_validation
from pipelines.train.stage import check_train


def check_compare(run: RunConfig) -> None:
    """What can be known to be wrong with the grid before anything is started. Raises UserError."""
    names = [grid.student_name(model) for model in grid.students_of(run)]
    if len(set(names)) < len(names):
        rule = f"the report tells students apart by the last part of their names: {', '.join(names)}"
        raise UserError("compare.students", rule, "Rename a folder.")
    for model in grid.students_of(run):
        check_model(model, "compare.students")
    for method in run.compare.methods:
        _check_settings(run, grid.settings_of(run, method))
        check_validation(run.model_copy(update={"student": grid.student_of(run, method, run.student.model)}))
    if run.training.validate_every_steps is not None and run.corpus.test is None:
        rule = "weights are chosen on the validation split, which would be scored too: what won there looks better than it is"
        raise UserError("training.validate_every_steps", rule, "Give corpus.test, or remove it.")
    if run.compare.search.trials > 1:
        _check_search(run)


def _check_settings(run: RunConfig, settings: Sequence[grid.Setting]) -> None:
    different = len(set(settings))
    if different < len(settings):
        rule = f"so narrow a range has {different} different learning rates for {len(settings)} trials (three digits count)"
        raise UserError(f"compare.search.learning_rate {run.compare.search.learning_rate}", rule, "Widen it.")


def _check_search(run: RunConfig) -> None:
    """Refuse to choose settings on what is scored, on nothing, or on what a method cannot read."""
    if run.corpus.test is None:
        rule = "settings are chosen on the validation split, which would be scored too: what won there looks better than it is"
        raise UserError("compare.search", rule, "Give corpus.test, or set trials: 1.")
    if not run.corpus.validation:
        raise UserError("compare.search", "there is no validation split to choose on", "Set corpus.validation.")
    if isinstance(run.corpus.validation, str) and (readers := rationale_readers(run.compare.methods)):
        rule = "it reads the teacher's rationales, and settings are chosen on a file that the teacher does not answer"
        raise UserError(f"compare.methods {', '.join(readers)}", rule, "Set corpus.validation to a share, or trials: 1.")


def check_labelled(
    run: RunConfig, task: Task, labels: Manifest, labels_at: str, examples: Mapping[Split, Sequence[Example]]
) -> None:
    """What the train stage would refuse of any method or student, and students that the labels give nothing to read. Raises UserError."""
    for (student, method), setting in grid.without_search(run).items():
        cell = Cell(student, method, max(run.compare.fractions), run.compare.seeds[0], setting)
        check_train(grid.run_of(run, cell, task, labels), labels_at)
    if rationale_readers(run.compare.methods):
        for split, some in examples.items():
            check_rationales(answers_of_teacher(run, split, Store(labels_at), some, task), some)
