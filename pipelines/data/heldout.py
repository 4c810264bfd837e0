"""Which examples are held out: for validation by a hash of the id, for scoring by files of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pipelines.config import CorpusConfig, RunConfig
from pipelines.data.files import corpus_files
from pipelines.data.reader import corpus_splits, read_split
from pipelines.storage.fingerprint_cache import file_fingerprints
from pipelines.tasks import Example, Task


@dataclass(frozen=True)
class Heldout:
    """The examples that students are scored on, and the rows of their files that are not scored."""

    examples: tuple[Example, ...]
    unreadable: tuple[tuple[str, str], ...]
    """(id, problem) of rows that the task cannot read, such as a gold label outside its label set; in corpus order."""
    duplicates: tuple[str, ...] = ()
    """The id of every readable row whose id an earlier row has."""


def is_validation(example_id: str, share: float) -> bool:
    """True if an example of the train corpus belongs to the validation split. Depends on its id and the share alone."""
    bucket = int.from_bytes(hashlib.sha256(f"validation:{example_id}".encode()).digest()[:8], "big")
    return bucket < share * 2**64


def validation_share(validation: float | str) -> float:
    """The share of train that `corpus.validation` holds out. 0 if it names files."""
    return validation if isinstance(validation, float) else 0.0


def validation_identity(corpus: CorpusConfig) -> float | list[str]:
    """The part of `corpus.validation` that a student depends on: the share, or the fingerprints of the files."""
    if not isinstance(corpus.validation, str):
        return corpus.validation
    return file_fingerprints(corpus_files(corpus.validation, "corpus.validation"))


def has_heldout_files(corpus: CorpusConfig) -> bool:
    """True if the scored examples come from files of their own, False if they are a share of train."""
    return corpus.test is not None or isinstance(corpus.validation, str)


def heldout_files(corpus: CorpusConfig) -> list[str] | None:
    """The files of the scored examples: the test files, else the validation files. None if a share of train is scored."""
    if corpus.test is not None:
        return corpus_files(corpus.test, "corpus.test")
    if isinstance(corpus.validation, str):
        return corpus_files(corpus.validation, "corpus.validation")
    return None


def heldout_examples(run: RunConfig, task: Task) -> Heldout:
    """The test examples. Without test files: the validation examples. Of rows with the same id, the first counts."""
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
