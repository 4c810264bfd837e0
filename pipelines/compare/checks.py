"""Checks of `raystill compare`: of the run file before Ray starts, and of the labels before the first training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.compare import grid
from pipelines.compare.cells import Split, answers_of_teacher
from pipelines.compare.grid import Cell
from pipelines.config import RunConfig
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.methods import rationale_readers
from pipelines.scoring.systems import check_rationales
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import check_model
from pipelines.tasks import Example, Task, load_task, task_spec
from pipelines.train.checks import check_validation
from pipelines.train.stage import check_train

_CHOSEN_ON_SCORED = (
    "are chosen on the validation split, which would also be scored. The winner's accuracy would be too high"
)


def check_compare(run: RunConfig) -> None:
    """Check the grid before Ray starts. Raises UserError."""
    names = [grid.student_name(model) for model in grid.students_of(run)]
    if len(set(names)) < len(names):
        rule = f"the last parts of their names must differ in the report: {', '.join(names)}"
        raise UserError("compare.students", rule, "Rename a folder.")
    for model in grid.students_of(run):
        check_model(model, "compare.students")
    for method in run.compare.methods:
        _check_settings(run, grid.settings_of(run, method))
        check_validation(run.model_copy(update={"student": grid.student_of(run, method, run.student.model)}))
    if run.training.validate_every_steps is not None and run.corpus.test is None:
        raise UserError(
            "training.validate_every_steps", f"weights {_CHOSEN_ON_SCORED}", "Set corpus.test, or remove it."
        )
    if run.compare.search.trials > 1:
        _check_search(run)
    if run.compare.gold_fractions:
        _check_gold(run)


def _check_gold(run: RunConfig) -> None:
    """Refuse shares of gold labels that the corpus lacks, before the teacher labels it. Reads up to the first gold label."""
    task = load_task(task_spec(run.task, run.task_options))
    files = corpus_files(run.corpus.train, "corpus.train")
    for split in corpus_splits(files, "train", limit=run.corpus.limit):
        if any(
            row.example is not None and row.example.gold is not None
            for row in read_split(split, task, run.corpus.fields)
        ):
            return
    rule = "none of the rows of corpus.train has a gold label"
    raise UserError("compare.gold_fractions", rule, "Set corpus.fields.gold, or remove the key.")


def _check_settings(run: RunConfig, settings: Sequence[grid.Setting]) -> None:
    different = len(set(settings))
    if different < len(settings):
        rule = f"the range has only {different} different learning rates (of three digits) for {len(settings)} trials"
        raise UserError(f"compare.search.learning_rate {run.compare.search.learning_rate}", rule, "Widen it.")


def _check_search(run: RunConfig) -> None:
    """Refuse to choose settings on the scored examples, on nothing, or on examples that a method cannot read."""
    if run.corpus.test is None:
        raise UserError("compare.search", f"settings {_CHOSEN_ON_SCORED}", "Set corpus.test, or trials: 1.")
    if not run.corpus.validation:
        raise UserError("compare.search", "settings need a validation split to be chosen on", "Set corpus.validation.")
    if isinstance(run.corpus.validation, str) and (readers := rationale_readers(run.compare.methods)):
        rule = "it reads the teacher's rationales, and the teacher does not answer the validation file, on which settings are chosen"
        raise UserError(
            f"compare.methods {', '.join(readers)}", rule, "Set corpus.validation to a share, or trials: 1."
        )


def check_labelled(
    run: RunConfig, task: Task, labels: Manifest, labels_at: str, examples: Mapping[Split, Sequence[Example]]
) -> None:
    """Check all methods and students as the train stage does, and that students have rationales to read. Raises UserError."""
    for (student, method), setting in grid.without_search(run).items():
        cell = Cell(student, method, max(run.compare.fractions), run.compare.seeds[0], setting)
        check_train(grid.run_of(run, cell, task, labels), labels_at)
    if rationale_readers(run.compare.methods):
        for split, some in examples.items():
            check_rationales(answers_of_teacher(run, split, Store(labels_at), some, task), some)
