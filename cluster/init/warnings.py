"""What is odd about a corpus, one sentence each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cluster.init.columns import MAX_ROWS, CorpusLook
from cluster.init.guess import Guess
from pipelines.data.survey import Survey

_FEW_ROWS = 50
_LISTED = 3
_LONG_INPUT = 3000
_SKEWED = 0.9


def corpus_warnings(guess: Guess, look: CorpusLook, found: Survey, shots: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What a first run would stumble over."""
    if not look.whole:
        yield f"only the first {MAX_ROWS:,} rows were read; labels that only later rows have are missing from the run file"
    if found.rows < _FEW_ROWS:
        yield f"{found.rows:,} rows are few: a student needs hundreds"
    for problem, rows in sorted(found.unreadable.items(), key=lambda item: -item[1].rows)[:_LISTED]:
        of = f"{rows.rows:,} of {found.rows:,} rows"
        yield f"{of} cannot be read: {problem} (first: {rows.first}). They will be rejected as bad_input"
    if found.repeated.rows:
        what = "repeat the id of an earlier row" if "id" in guess.fields else "equal an earlier row"
        yield f"{found.repeated.rows:,} of {found.rows:,} rows {what} (first: {found.repeated.first}). Only the first of them counts"
    yield from _gold(guess, look, found)
    if guess.task == "classification" and not shots:
        yield (
            "task classification without examples: most teachers will not answer in the expected form. "
            "Fill in task_options.examples"
        )
    if guess.input and guess.input.longest > _LONG_INPUT:
        yield f"the longest input has {guess.input.longest:,} characters: see too_long in `raystill plan`, and training.max_input_tokens"


def _gold(guess: Guess, look: CorpusLook, found: Survey) -> Iterator[str]:
    if guess.gold is not None and not guess.gold.is_named_gold:
        rule = f"column {guess.gold.name} is taken for the gold label, since its short values repeat; its name does not say so"
        yield f"{rule}. If it is not, name another in corpus.fields.gold, or remove that: the columns are {', '.join(look.columns)}"
    if not found.with_gold:
        yield "no row has a gold label: the student learns the teacher's, and `raystill evaluate` needs some gold labels"
    elif found.without_gold:
        yield f"{found.without_gold:,} rows have no gold label: student.labels is gold-else-teacher"
    for spellings in guess.spellings[:_LISTED]:
        yield f"labels {', '.join(map(repr, spellings))} differ only in case, spaces or marks: they count as one"
    labels = guess.labels or []
    if labels and all(label.lstrip("-").isdigit() for label in labels):
        yield "the labels are numbers: say in task_options.instruction what each means, or give a task of your own (--task)"
    top = found.labels.most_common(1)
    if top and top[0][1] > _SKEWED * found.with_gold:
        yield f"{top[0][1] / found.with_gold:.0%} of the gold labels are {top[0][0]!r}: accuracy alone will say little"
    rare = [label for label in labels if found.labels[label] == 1]
    if rare:
        yield f"labels with a single row: {len(rare)}, such as {rare[0]!r}"
