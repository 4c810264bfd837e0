"""The columns of a corpus, nested fields included, and which of them is id, input and gold label.

{"meta": {"id": 7}, "messages": [{"role": "user", "content": "Hi"}]}  ->  meta.id, messages.user
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.files import file_format
from pipelines.data.formats import records

MAX_ROWS = 200_000
"""Rows that init looks at. The rest of a longer corpus is not read."""
_COUNTED_VALUES = 2000
_SHORT_CHARACTERS = 200
_MAX_DEPTH = 3
_IDS = ("id", "uid", "uuid", "guid", "idx", "key", "pairid", "index", "number", "no")
_ID_ENDS = ("_id", "_no", "_nr", "_num", "_number", "_ref", "_key", "_uuid")
_SHORT_IDS = ("nr", "num", "ref", "reference", "ticket", "case", "code")
"""Names of ids, if the values are single words: a column called `ticket` may hold its text."""
_ID_CHARACTERS = 64
_GOLDS = (
    "gold_label", "gold", "label", "target", "answer", "answer_key", "answerkey", "class", "category", "intent", "queue", "sentiment",
    "topic", "department", "tag", "output", "completion", "response", "expected", "assistant", "solution", "type", "y",
)  # fmt: skip
_INPUTS = (
    "input", "text", "message", "question", "body", "content", "sentence", "review", "utterance", "description", "comment", "query",
    "prompt", "problem", "document", "email", "mail", "user", "instruction", "title", "subject",
)  # fmt: skip


@dataclass
class Column:
    """What a column holds, over the rows that have a value."""

    name: str
    """Path of a nested field, as in `corpus.fields`."""
    values: int = 0
    texts: int = 0
    """Values that are text; the others are numbers, lists or truth values."""
    lists: int = 0
    characters: int = 0
    longest: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Of the first 2,000 different short values."""
    hashes: set[int] = field(default_factory=set)

    def add(self, value: object) -> None:
        """Count one value."""
        self.values += 1
        if isinstance(value, list):
            self.lists += 1
            return
        text = str(value)
        self.texts += isinstance(value, str)
        self.characters += len(text)
        self.longest = max(self.longest, len(text))
        self.hashes.add(hash(text))
        if len(text) <= _SHORT_CHARACTERS and (text in self.counts or len(self.counts) < _COUNTED_VALUES):
            self.counts[text] += 1

    @property
    def plain_name(self) -> str:
        """`answer_key` of `data.Answer Key`."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name.rpartition(".")[2])
        return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")

    @property
    def mean(self) -> float:
        """Characters of a value on average."""
        return self.characters / max(self.values, 1)

    @property
    def is_scalar(self) -> bool:
        """True if no value is a list."""
        return self.lists == 0 and self.values > 0

    @property
    def is_named_gold(self) -> bool:
        """True if its name says that it holds labels."""
        return self.plain_name in _GOLDS

    @property
    def has_words(self) -> bool:
        """True if a value has several words, or is longer than an id."""
        return self.longest > _ID_CHARACTERS or any(len(value.split()) > 1 for value in self.counts)

    @property
    def repeats(self) -> bool:
        """True if most values occur several times."""
        return len(self.hashes) <= max(2, self.values // 2)


@dataclass
class CorpusLook:
    """The columns of the first rows of a corpus."""

    rows: int = 0
    readable: int = 0
    problem: str = ""
    """Of the first row that cannot be read."""
    whole: bool = True
    """False: MAX_ROWS ended the look."""
    columns: dict[str, Column] = field(default_factory=dict)

    def first_of(self, names: Iterable[str], among: Iterable[Column] | None = None) -> Column | None:
        """The first column that has one of these names, in the order of the names."""
        columns = list(self.columns.values() if among is None else among)
        return next((column for name in names for column in columns if column.plain_name == name), None)


def look_at(files: list[str]) -> CorpusLook:
    """Read the first rows of a corpus. Raises UserError if a file cannot be read as a whole."""
    look = CorpusLook()
    for uri in files:
        for record in records(uri, file_format(uri)):
            if look.rows == MAX_ROWS:
                look.whole = False
                return look
            look.rows += 1
            look.readable += record.columns is not None
            look.problem = look.problem or record.problem
            for name, value in _flat(record.columns or {}):
                look.columns.setdefault(name, Column(name)).add(value)
    return look


def id_column(look: CorpusLook) -> Column | None:
    """The column with the ids: by its name, with few repeated values."""
    scalars = [
        one for one in look.columns.values() if one.is_scalar and one.values == look.readable and not one.repeats
    ]
    words = [one for one in scalars if not one.has_words]
    ending = (one for one in words if one.plain_name.endswith(_ID_ENDS))
    return look.first_of(_IDS, scalars) or next(ending, None) or look.first_of(_SHORT_IDS, words)


def gold_column(look: CorpusLook, taken: Iterable[Column | None]) -> Column | None:
    """The column with people's labels: by its name; else short texts that repeat, beside one that does not."""
    others = [one for one in look.columns.values() if one.is_scalar and one not in tuple(taken)]
    named = look.first_of(_GOLDS, others)
    if named is not None:
        return named
    repeated = [
        one for one in others if one.repeats and one.texts == one.values and one.mean < 40 and len(one.hashes) > 1
    ]
    free = [one for one in others if not one.repeats and one.mean >= 10]
    return min(repeated, key=lambda one: len(one.hashes)) if repeated and free else None


def input_column(look: CorpusLook, taken: Iterable[Column | None]) -> Column | None:
    """The column that the student reads: by its name, else the longest texts."""
    texts = [one for one in look.columns.values() if one.is_scalar and one.texts and one not in tuple(taken)]
    return look.first_of(_INPUTS, texts) or max(texts, key=lambda one: one.mean, default=None)


def _flat(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """(path, value) of the values that are set. Messages give one path for each role."""
    for name, value in row.items():
        path = f"{prefix}{name}"
        if value is None or value == "":
            continue
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            yield from _flat(value, f"{path}.", depth + 1)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield from _messages(value, path)
        else:
            yield path, value


def _messages(items: list[Mapping[str, Any]], path: str) -> Iterator[tuple[str, object]]:
    for role, content in (("role", "content"), ("from", "value")):
        roles = [item.get(role) for item in items]
        for item in items:
            if isinstance(item.get(role), str) and isinstance(item.get(content), str) and roles.count(item[role]) == 1:
                yield f"{path}.{item[role]}", item[content]
