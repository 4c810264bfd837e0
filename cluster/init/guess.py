"""Which task a corpus is for, tried by reading its rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.init.columns import Column, CorpusLook, gold_column, id_column, input_column
from cluster.init.encodings import encoding_warnings
from pipelines.data.survey import Survey, survey
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec

_TRIED_ROWS = 1000
_READABLE = 0.9
_MAX_LABELS = 100
_LABEL_CHARACTERS = 60
_PREMISES = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text_a", "text_b"))
_CHOICES = ("choices", "options", "answers", "candidates", "endings", "text")
_EXPRESSION = re.compile(r"[\d).]\s*[-+*/]\s*[\d(]")


@dataclass(frozen=True)
class Guess:
    """A task, and the columns that it reads."""

    task: str
    fields: dict[str, str]
    """As in `corpus.fields`."""
    options: dict[str, object] = field(default_factory=dict)
    input: Column | None = None
    gold: Column | None = None
    """None: the corpus has no gold labels."""
    spellings: tuple[tuple[str, ...], ...] = ()
    """Labels that differ only in case and spaces: they count as one."""

    @property
    def labels(self) -> list[str] | None:
        """The closed label set of a classification."""
        found = self.options.get("labels")
        return list(found) if isinstance(found, list) else None


def guess_task(files: list[str], look: CorpusLook, where: str, *, own_task: bool = False) -> Guess:
    """The first task that can read nearly all of the first rows.

    Args:
        where: the corpus, for messages.
        own_task: a task of the user's own, which reads one text, is wanted.

    Raises:
        UserError: no column holds a text to answer.
    """
    for guess in _candidates(look):
        if own_task and guess.task != "classification":
            continue
        if guess.task == "classification":
            return guess
        task = load_task(task_spec(guess.task, guess.options))
        tried: Survey = survey(files, task, guess.fields, max_rows=_TRIED_ROWS)
        if tried.readable >= _READABLE * tried.rows > 0:
            return guess
    if not look.columns:
        nested = "its values are empty, or lists of objects"
        rule = f"none of its rows can be read ({look.problem or nested})"
        otherwise = (
            "Repair the file, or export it again" if look.problem else "Write one object with texts for each row"
        )
        remedy = next(encoding_warnings(files), otherwise)
        raise UserError(where, rule, f"{remedy}.")
    rule = f"no column holds a text that a student could read; its columns: {', '.join(look.columns)}"
    raise UserError(where, rule, "Add a column with texts.")


def _candidates(look: CorpusLook) -> Iterator[Guess]:
    row_id = id_column(look)
    ids = {"id": row_id.name} if row_id else {}
    for premise, hypothesis in _PREMISES:
        first, second = look.first_of([premise]), look.first_of([hypothesis])
        if first and second:
            gold = gold_column(look, (row_id, first, second))
            fields = {**ids, "premise": first.name, "hypothesis": second.name}
            yield Guess("nli", _with_gold(fields, gold), input=second, gold=gold)
    yield from _multiple_choice(look, ids, row_id)
    gold = gold_column(look, (row_id,))
    text = input_column(look, (row_id, gold))
    if text is None and gold is not None:  # one column, which has the name of a label
        text, gold = input_column(look, (row_id,)), None
    if text is None:
        return
    if gold is not None:
        yield from _math(look, ids, text, gold)
    yield _classification(ids, text, gold)


def _multiple_choice(look: CorpusLook, ids: dict[str, str], row_id: Column | None) -> Iterator[Guess]:
    lists = [column for column in look.columns.values() if column.lists == column.values or _has_lists_as_text(column)]
    choices = look.first_of(_CHOICES, lists)
    question = input_column(look, (row_id, gold_column(look, (row_id,))))
    if choices and question:
        gold = gold_column(look, (row_id, question))
        fields = _with_gold({**ids, "question": question.name, "choices": choices.name}, gold)
        yield Guess("multiple-choice", fields, input=question, gold=gold)
        yield Guess("multiple-choice", fields, {"gold": "index"}, question, gold)


def _has_lists_as_text(column: Column) -> bool:
    """CSV has no lists: the task reads JSON lists."""
    return bool(column.counts) and all(value.lstrip().startswith("[") for value in column.counts)


def _math(look: CorpusLook, ids: dict[str, str], text: Column, gold: Column) -> Iterator[Guess]:
    values = list(gold.counts)[:_TRIED_ROWS]
    expressions = sum(bool(_EXPRESSION.search(value)) and not re.search("[a-zA-Z]", value) for value in values)
    if values and expressions > _READABLE * len(values):
        yield Guess("arithmetic", _with_gold({**ids, "input": text.name}, gold), input=text, gold=gold)
    solved = [column for column in look.columns.values() if any("#### " in value for value in column.counts)]
    numbers = sum(bool(re.fullmatch(r"-?[$€]?[\d,. ]+", value)) for value in values)
    many = len(gold.hashes) > 20 and len(gold.hashes) > 0.1 * gold.values
    if (gold in solved or numbers > _READABLE * len(values)) and many and text.mean > 40:
        yield Guess("grade-school-math", _with_gold({**ids, "question": text.name}, gold), input=text, gold=gold)


def _classification(ids: dict[str, str], text: Column, gold: Column | None) -> Guess:
    fields = _with_gold({**ids, "input": text.name}, gold)
    if gold is None:
        return Guess("classification", fields, input=text)
    labels, spellings = _label_set(gold.counts)
    few = len(labels) <= _MAX_LABELS and (gold.repeats or gold.values < 20)
    if gold.longest > _LABEL_CHARACTERS or not few or len(labels) < 2:
        return Guess("classification", fields, input=text, gold=gold)
    return Guess("classification", fields, {"labels": labels}, text, gold, spellings)


def _label_set(counts: Counter[str]) -> tuple[list[str], tuple[tuple[str, ...], ...]]:
    """Labels, the most frequent first, each in its most frequent spelling; and the spellings that were joined."""
    spelled: dict[str, list[str]] = {}
    for value, _ in counts.most_common():
        text = " ".join(value.split())
        # As the task compares labels: without case and marks at the ends.
        key = text.casefold().strip(" .,;:!?\"'()[]*_`") or text.casefold()
        spelled.setdefault(key, []).append(value)
    joined = tuple(tuple(values) for values in spelled.values() if len(values) > 1)
    return [values[0].strip() for values in spelled.values()], joined


def _with_gold(fields: dict[str, str], gold: Column | None) -> dict[str, str]:
    return fields if gold is None else {**fields, "gold": gold.name}
