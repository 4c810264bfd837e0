"""What the first rows of the training corpus show before anything is paid: missing gold labels, unreadable rows, repeated ids."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.config import RunConfig, StudentConfig
from pipelines.data.files import file_state
from pipelines.data.heldout import has_heldout_files
from pipelines.data.reader import corpus_files
from pipelines.data.survey import Survey, survey
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec

CHECKED_ROWS = 20_000
_PROBLEMS = 3
_SKEWED = 0.95
_MIN_SKEWED = 20
_surveys: dict[str, Survey] = {}


def corpus_survey(run: RunConfig) -> Survey:
    """The first 20,000 rows of `corpus.train`, read once in a process. Raises UserError if a file cannot be read."""
    files = corpus_files(run.corpus.train, "corpus.train")
    states = [f"{uri} {file_state(uri)}" for uri in files]
    key = f"{states} {run.corpus.fields} {run.corpus.limit} {run.task} {run.task_options}"
    if key not in _surveys:
        task = load_task(task_spec(run.task, run.task_options))
        _surveys[key] = survey(files, task, run.corpus.fields, limit=run.corpus.limit, max_rows=CHECKED_ROWS)
    return _surveys[key]


def check_gold(run: RunConfig) -> None:
    """Refuse to label for a student that learns gold labels which rows lack."""
    _check_student(run, run.student, "student")


def check_grid_gold(run: RunConfig) -> None:
    """The same for each method of a grid, also beside `compare.gold_fractions`, whose cells are further ones."""
    from pipelines.compare.grid import student_of

    for method in run.compare.methods:
        _check_student(run, student_of(run, method, run.student.model), f"compare.methods {method}")


def check_scored(run: RunConfig) -> None:
    """Refuse a run whose evaluation has no gold label to score against."""
    found = corpus_survey(run)
    if found.readable and found.whole and not found.with_gold and not has_heldout_files(run.corpus):
        rule = "none of its rows has a gold label, and evaluation scores answers against gold labels"
        remedy = (
            "Name a labelled file in corpus.test. Without gold labels: `raystill label RUN`, then `raystill train RUN`."
        )
        raise UserError("corpus.train", rule, remedy)


def _check_student(run: RunConfig, student: StudentConfig, where: str) -> None:
    from pipelines.train.checks import METHOD_WITHOUT_GOLD
    from pipelines.train.loss_terms import term_weights

    if student.label_column != "gold" or not {"label", "text"} & set(term_weights(student)):
        return
    if Store(run.output).child("labels").exists():
        return  # what is labelled is paid, and training checks the labels themselves: rows without gold may be rejected
    found = corpus_survey(run)
    if not found.without_gold or (student.leaves_out_rows and (found.with_gold or not found.whole)):
        return
    fixed = METHODS[student.method].label_column is not None
    value = where if where != "student" else f"method {student.method}" if fixed else "student.labels"
    which = "" if found.whole else "first "
    rule = f"it learns gold labels, and {found.without_gold:,} of the {which}{found.readable:,} rows have none"
    others = "choose method step-by-step with labels: " if fixed else "set student.labels: "
    remedy = f"{others}gold-else-teacher or teacher."
    if where != "student" and fixed:
        remedy = METHOD_WITHOUT_GOLD
    if where == "student" and found.with_gold:
        alone = "set student.labels: gold to learn the rows with gold alone"
        remedy = f"{alone}, or {others if fixed else ''}gold-else-teacher or teacher to learn all."
    raise UserError(value, rule, remedy[0].upper() + remedy[1:])


def corpus_warnings(run: RunConfig) -> Iterator[str]:
    """What the labels would suffer from, one sentence each."""
    found = corpus_survey(run)
    of = f"of {'' if found.whole else 'the first '}{found.rows:,} rows"
    for problem, rows in sorted(found.unreadable.items(), key=lambda item: -item[1].rows)[:_PROBLEMS]:
        yield f"{rows.rows:,} {of} cannot be read: {problem} (first: {rows.first})"
    if found.repeated.rows:
        yield f"{found.repeated.rows:,} {of} repeat an earlier id (first: {found.repeated.first}); they become `duplicate`"
    top = found.labels.most_common(1)
    if found.with_gold >= _MIN_SKEWED and top[0][1] > _SKEWED * found.with_gold:
        yield f"{top[0][1]:,} of {found.with_gold:,} gold labels are {top[0][0]!r}"
    if run.task == "classification" and not {"instruction", "examples"} & set(run.task_options):
        yield (
            "task classification has neither task_options.instruction nor examples: most answers will be rejected. "
            "`raystill init CORPUS` writes both"
        )
