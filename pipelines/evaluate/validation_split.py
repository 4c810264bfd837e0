"""The validation split of a student's training: whether weights were chosen on it, and what it shares with the scored examples."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config import CorpusConfig, RunConfig
from pipelines.data.heldout import heldout_examples, heldout_files, validation_identity
from pipelines.errors import UserError
from pipelines.scoring.contamination import chosen_on_part
from pipelines.scoring.heldout_part import heldout_key
from pipelines.scoring.model import Overlap
from pipelines.storage.manifest import Manifest
from pipelines.tasks import Example, Task


def validation_of(student: Manifest) -> float | str:
    """The `corpus.validation` of the student's training."""
    validation: float | str = student.config["corpus"]["validation"]
    return validation


def same_validation(run: RunConfig, student: Manifest) -> bool:
    """True if the run's `corpus.validation` is that of the training: the same share, or files with the same content."""
    return bool(student.identity["corpus"]["validation"] == validation_identity(run.corpus))


def chosen_on(run: RunConfig, student: Manifest, task: Task, examples: Sequence[Example]) -> Overlap | None:
    """report.json's `heldout.chosen_on`. None if no weights were chosen, or if `validation_notes` has a note instead.

    Raises:
        UserError: more than half of the examples have the input of a validation example.
    """
    if not _chose_weights(student) or _scores_validation(run, student):
        return None
    corpus = _validation_corpus(run, student)
    if corpus is None:
        return None
    validation = heldout_examples(run.model_copy(update={"corpus": corpus}), task)
    return chosen_on_part(validation.examples, examples, heldout_key(run))


def validation_notes(run: RunConfig, student: Manifest) -> list[str]:
    """Notes on the student's accuracy if its weights were chosen on the scored examples, or on examples that are unknown now."""
    if not _chose_weights(student):
        return []
    if _scores_validation(run, student):
        return [f"its weights were chosen by their {_criterion(student)} on these examples, which raises its accuracy"]
    if _validation_corpus(run, student) is None:
        file = validation_of(student)
        chosen = f"its weights were chosen by their {_criterion(student)} on {file}"
        return [f"{chosen}, which is missing: it may share examples with these"]
    return []


def _chose_weights(student: Manifest) -> bool:
    return student.config["training"]["validate_every_steps"] is not None


def _criterion(student: Manifest) -> str:
    """What a better measurement has: less loss, also in 0.1, or a higher accuracy."""
    return "accuracy" if student.config["training"].get("choose_by") == "accuracy" else "loss"


def _scores_validation(run: RunConfig, student: Manifest) -> bool:
    """True if the scored examples are the validation split of the training."""
    return run.corpus.test is None and same_validation(run, student)


def _validation_corpus(run: RunConfig, student: Manifest) -> CorpusConfig | None:
    """The corpus with the validation split of the training as its held-out examples; None if its files are missing."""
    same = same_validation(run, student)
    corpus = run.corpus.model_copy(
        update={"test": None, "validation": run.corpus.validation if same else validation_of(student)}
    )
    try:
        heldout_files(corpus)
    except UserError:
        if same:
            raise
        return None
    return corpus
