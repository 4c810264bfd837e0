"""The files with stored answers that a run may take over.

    labels/texts/part-k.parquet     of other outputs, which `labelling.reuse` names
    labels/batches/NAME.parquet     of this output: answers of its batches (batches/)
    labels/earlier/NAME.parquet     of this output: answers that its labels do not have. They come from labels that were replaced, and from
                                    commits that were damaged or never made

Answers are found by their key alone, so a file needs no commit record to be of use.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.label.output.parts import TEXTS_FOLDER
from pipelines.storage.lock import LOCK
from pipelines.storage.manifest import read_manifest
from pipelines.storage.store import MANIFEST, Store

EARLIER_FOLDER = "earlier"
BATCHES_FOLDER = "batches"


class TextFile(NamedTuple):
    """A Parquet file of schema.TEXT."""

    store: Store
    name: str

    @property
    def shown(self) -> str:
        """For messages."""
        return self.store.shown(self.name)

    @property
    def paid_now(self) -> bool:
        """True if it has answers of this run's batches."""
        return self.name.startswith(f"{BATCHES_FOLDER}/")


def text_files(run: RunConfig, labels: Store, *, replaced: bool = False) -> list[TextFile]:
    """The files that the run may take answers from, in the order in which they are looked up.

    Args:
        labels: the run's own labels folder.
        replaced: what the folder holds will be replaced.
    """
    own = [TextFile(labels, name) for name in labels.files(BATCHES_FOLDER, ".parquet")]
    if run.labelling.reuse == [] or run.teacher.token_logprobs:
        return own  # texts have no log-probabilities of tokens
    own += [TextFile(labels, name) for name in labels.files(EARLIER_FOLDER, ".parquet")]
    if replaced:
        own += [TextFile(labels, name) for name in labels.files(TEXTS_FOLDER, ".parquet")]
    return own + [file for uri in run.labelling.reuse or [] for file in _files_of(Store(uri).child("labels"))]


def check_reuse(run: RunConfig) -> None:
    """Raise UserError if `labelling.reuse` names a folder without texts, or what is in it cannot be used."""
    if run.labelling.reuse and run.teacher.token_logprobs:
        rule = "texts have no log-probabilities of tokens, which teacher.token_logprobs asks for"
        raise UserError("labelling.reuse", rule, "Remove it, or remove teacher.token_logprobs.")
    for uri in run.labelling.reuse or []:
        store = Store(uri)
        if store.uri == Store(run.output).uri:
            remedy = "Remove it: `raystill label RUN --replace` takes over the answers of the labels that it replaces."
            raise UserError(f"labelling.reuse {store.shown()}", "it is the output of this run", remedy)
        labels = store.child("labels")
        if not _files_of(labels):
            rule = f"{labels.shown(TEXTS_FOLDER)} holds no stored answers"
            remedy = "Name the output of a run that Raystill 0.2 or later has labelled."
            raise UserError(f"labelling.reuse {store.shown()}", rule, remedy)


def set_aside(labels: Store, names: Iterable[str], check_lock: Callable[[], None]) -> None:
    """Move text files that no commit will name into EARLIER_FOLDER."""
    for name in names:
        check_lock()
        labels.move(name, f"{EARLIER_FOLDER}/{uuid.uuid4().hex}.parquet")


def replace_labels(
    labels: Store, check_lock: Callable[[], None], *, keep_answers: bool, keep: Iterable[str] = ()
) -> None:
    """Clear the labels folder. A kill at any moment leaves all answers in texts/ or earlier/, and no finished labels.

    Args:
        keep: further files and folders that stay, with the answers.
    """
    check_lock()
    if not keep_answers:
        labels.clear(LOCK)
        return
    labels.delete(MANIFEST)
    paid = [*labels.files(TEXTS_FOLDER, ".parquet"), *labels.files(BATCHES_FOLDER, ".parquet")]
    set_aside(labels, paid, check_lock)
    labels.clear(LOCK, EARLIER_FOLDER, BATCHES_FOLDER, *keep)  # of batches, the records of those without answers


def _files_of(labels: Store) -> list[TextFile]:
    names = [*labels.files(TEXTS_FOLDER, ".parquet"), *labels.files(EARLIER_FOLDER, ".parquet")]
    return [TextFile(labels, name) for name in names]


def missing_files(run: RunConfig) -> list[str]:
    """Text files that the manifests of `labelling.reuse` name, and that are not there."""
    missing = []
    for uri in run.labelling.reuse or []:
        labels = Store(uri).child("labels")
        manifest = read_manifest(labels, "labels")
        named = manifest.details.get("parts", {}) if manifest else {}
        there = set(labels.files(TEXTS_FOLDER))
        missing += [labels.shown(name) for name in named if name.startswith(f"{TEXTS_FOLDER}/") and name not in there]
    return missing
