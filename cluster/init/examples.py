"""Worked examples and an instruction for a classification, made from rows with gold labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cluster.init.guess import Guess
from pipelines.data.heldout import is_validation
from pipelines.data.reader import corpus_splits, read_split
from pipelines.tasks import load_task, task_spec

_EXAMPLES = 6
_SEARCHED_ROWS = 20_000
_LONGEST = 300
_SHORTEST = 15
_QUOTED_WORDS = 12
_VAGUE = {"label", "gold_label", "gold", "class", "target", "y", "tag", "type", "expected"}
_ANSWERS = {"answer", "output", "response", "completion", "assistant", "solution"}


def instruction(guess: Guess) -> str:
    """The question that the gold column answers, in words made from the columns' names."""
    wanted = guess.gold.plain_name.replace("_", " ") if guess.gold else "topic"
    text = guess.input.plain_name.replace("_", " ") if guess.input else "text"
    if text in ("input", "user", "x"):
        text = "text"
    if guess.labels:
        wanted = "label" if wanted.replace(" ", "_") in _VAGUE | _ANSWERS else wanted
        return f"Which {wanted} fits this {text}? Give the reason, then the {wanted}."
    if guess.gold and wanted in _ANSWERS:
        return f'Answer the {text}. Give the reason, then write "The answer is ...".'
    return f'What is the {wanted} of this {text}? Give the reason, then write "The answer is ...".'


def examples(files: Sequence[str], guess: Guess, share: float) -> list[dict[str, str]]:
    """Up to six short rows with gold labels as `task_options.examples`, of different labels first.

    Rows of the validation split are left out. The rationale quotes the beginning of the input, for people to replace.

    Args:
        share: `corpus.validation`.
    """
    if guess.gold is None:
        return []
    found: dict[str, dict[str, str]] = {}
    task, seen = load_task(task_spec(guess.task, guess.options)), 0
    wanted = min(_EXAMPLES, len(guess.labels or range(_EXAMPLES)))
    for split in corpus_splits(list(files), "train", limit=_SEARCHED_ROWS):
        for row in read_split(split, task, guess.fields):
            seen += 1
            example = row.example
            if example is None or example.gold is None or is_validation(row.id, share):
                continue
            if example.gold in found or not _SHORTEST <= len(example.input) <= _LONGEST or len(example.gold) > _LONGEST:
                continue
            text = " ".join(example.input.split())
            found[example.gold] = {"input": text, "rationale": _rationale(text, guess), "label": example.gold}
            if len(found) == wanted:
                return _in_order(found, guess)
    return _in_order(found, guess)


def _in_order(found: Mapping[str, dict[str, str]], guess: Guess) -> list[dict[str, str]]:
    labels = guess.labels or list(found)
    return [found[label] for label in labels if label in found]


def _rationale(text: str, guess: Guess) -> str:
    name = guess.input.plain_name.replace("_", " ") if guess.input else "text"
    sentences = [one for one in re.split(r"(?<=[.!?;])\s+", text) if len(one.split()) > 2] or [text]
    words = sentences[0].strip(" .,;!?").split()
    quoted = " ".join(words[:_QUOTED_WORDS]).replace('"', "'").strip(" .,;!?")
    return f'The {name} says "{quoted}".'
