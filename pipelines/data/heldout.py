"""Which examples are held out: for validation, by hash of the id, and for scoring, from files of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pipelines.config import CorpusConfig, RunConfig
from pipelines.data.files import corpus_files
from pipelines.data.reader import corpus_splits, read_split
from pipelines.storage.fingerprint import file_fingerprint
from pipelines.tasks import Example, Task


@dataclass(frozen=True)
class Heldout:
    """The examples that a student is scored on, and the rows of their split that the task cannot read."""

    examples: tuple[Example, ...]
    unreadable: tuple[tuple[str, str], ...]
    """(id, problem), such as a gold label that is none of the task's; in corpus order."""
    duplicates: tuple[str, ...] = ()
    """Ids of readable rows that are left out, since an earlier one has the id; once for each such row."""


def is_validation(example_id: str, share: float) -> bool:
    """Whether an example of the train corpus is held out for validation: by the hash of its id, whatever else is in the corpus."""
    bucket = int.from_bytes(hashlib.sha256(f"validation:{example_id}".encode()).digest()[:8], "big")
    return bucket < share * 2**64


def validation_share(validation: float | str) -> float:
    """The share of train that `corpus.validation` holds out; 0 where it names files."""
    return validation if isinstance(validation, float) else 0.0


def validation_identity(corpus: CorpusConfig) -> float | list[str]:
    """What of `corpus.validation` decides a student: the share, or what is in the files."""
    if not isinstance(corpus.validation, str):
        return corpus.validation
    return [file_fingerprint(file) for file in corpus_files(corpus.validation, "corpus.validation")]


def has_heldout_files(corpus: CorpusConfig) -> bool:
    """Whether the scored examples are files of their own, whose answers the teacher gives apart, or a share of train."""
    return corpus.test is not None or isinstance(corpus.validation, str)


def heldout_files(corpus: CorpusConfig) -> list[str] | None:
    """The files of the examples that are scored: test, else a validation file, else None (a share of train)."""
    if corpus.test is not None:
        return corpus_files(corpus.test, "corpus.test")
    if isinstance(corpus.validation, str):
        return corpus_files(corpus.validation, "corpus.validation")
    return None


def heldout_examples(run: RunConfig, task: Task) -> Heldout:
    """The test examples, or the validation ones where there is no test set. The first of several with the same id counts."""
    files = heldout_files(run.corpus)
    share = None if files else run.corpus.validation
    splits = corpus_splits(files or corpus_files(run.corpus.train, "corpus.train"), "heldout", limit=run.corpus.limit)
    examples: dict[str, Example] = {}
    unreadable: list[tuple[str, str]] = []
    duplicates: list[str] = []
    for split in splits:
        for row in read_split(split, task, run.corpus.fields):
            if isinstance(share, float) and not is_validation(row.id, share):
                continue
            if row.example is None:
                unreadable.append((row.id, row.problem))
            elif row.id in examples:
                duplicates.append(row.id)
            else:
                examples[row.id] = row.example
    return Heldout(tuple(examples.values()), tuple(unreadable), tuple(duplicates))
