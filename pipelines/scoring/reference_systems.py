"""What a student is compared with, from the labels artifact: the teacher's answers and the majority label.

In: OUTPUT/labels. Out: the teacher's answers by example id, and the label that is the most frequent in training:

    teacher_answers(...) -> TeacherAnswers({"apples-17": TeacherAnswer("4 - 1", "Anne gives 1 away.", 291, 14), ...})
    majority_label(...)  -> Majority(label="neutral", count=61, rows=150, of="gold")

Answers to files of held-out examples (a test set, a validation file) are kept unfiltered beside the labels. Where a share of train is
scored, the teacher's answers to it went through the filters of the labels: what they rejected is read back from the rejects, so that a
filter does not look like a teacher without an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.config import CorpusConfig
from pipelines.data.heldout import has_heldout_files, is_validation, validation_share
from pipelines.errors import UnparsableError
from pipelines.storage.manifest import Manifest, require_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task

_ROWS = 8192
_ANSWERED = frozenset({"disagrees_with_gold", "low_agreement", "rationale_length", "gives_label_away"})
"""Rejects whose single answer holds a label: `output` is its text."""
_FILTERED = _ANSWERED | {"tie", "near_duplicate"}
"""Rejects that say nothing of the teacher: held-out files know no such filter. A near duplicate was never asked."""


@dataclass(frozen=True)
class Majority:
    """The most frequent label among the training rows."""

    label: str
    count: int
    rows: int
    """Training rows that have a label of this kind."""
    of: Literal["gold", "teacher"]
    """teacher: no training row has a gold label, so the teacher's stand for them."""


@dataclass(frozen=True)
class TeacherAnswer:
    """What the teacher said of an example. Tokens are None where they are not recorded: of answers that a filter rejected."""

    label: str
    rationale: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    """Of all its samples; 0 where a recording does not say."""


@dataclass(frozen=True)
class TeacherAnswers:
    """What the labels hold of the teacher's answers to the held-out examples."""

    by_id: Mapping[str, TeacherAnswer] = field(default_factory=dict)
    of_other_inputs: int = 0
    """Answers that are left out: they have the id of an example, and are to another input."""
    filtered: int = 0
    """Examples that a filter of the labels rejected, and whose answer cannot be read back."""
    hinted: bool = False
    """Whether examples may have been asked again with their gold label as a hint. No answer is taken then."""

    def notes(self) -> list[str]:
        """What a reader has to know of them."""
        notes = []
        if self.hinted:
            notes.append(
                "the labels hold answers to validation rows that were asked for again with the gold label as a hint; "
                "label anew, or give corpus.test"
            )
        if self.filtered:
            notes.append(
                f"filters of the labels rejected {self.filtered:,} of the held-out examples, and how it answered them is not known; "
                "its answers to corpus.test are kept unfiltered"
            )
        if self.of_other_inputs:
            notes.append(
                f"{self.of_other_inputs:,} of its answers have the id of an example and another input; they do not count"
            )
        return notes


def teacher_answers(labels: Store, corpus: CorpusConfig, examples: Sequence[Example], task: Task) -> TeacherAnswers:
    """The teacher's answers to the held-out examples that it answered.

    An answer counts where its input is the example's: labels may have been made with another test set that has the same ids.
    """
    by_id = {example.id: example for example in examples}
    from_train = not has_heldout_files(corpus)
    manifest = require_manifest(labels, "labels", "label RUN")
    if from_train and _rationalised(manifest, validation_share(corpus.validation)):
        return TeacherAnswers(hinted=True)
    columns = ["label", "rationale", "prompt_tokens", "output_tokens"]
    found: dict[str, TeacherAnswer] = {}
    others = 0
    for row in _rows(labels, "data" if from_train else "heldout/data", ["id", "input", *columns]):
        if row["id"] not in by_id:
            continue
        if row["input"] == by_id[row["id"]].input:
            found[row["id"]] = TeacherAnswer(**{name: row[name] for name in columns})
        else:
            others += 1
    if not from_train:
        return TeacherAnswers(found, others)
    read_back, filtered = _rejected(labels, manifest, by_id, task)
    return TeacherAnswers({**read_back, **found}, others, len(filtered - found.keys()))


def _rationalised(labels: Manifest, share: float) -> bool:
    """Whether rows of this share of train may have been asked again with the gold label as a hint.

    Labels say of which share they know that none was; those of earlier versions do not.
    """
    asked = labels.identity.get("teacher", {}).get("filters", {}).get("gold") == "rationalise"
    return asked and float(labels.identity.get("never_rationalised", 0.0)) < share


def _rejected(
    labels: Store, manifest: Manifest, by_id: Mapping[str, Example], task: Task
) -> tuple[dict[str, TeacherAnswer], set[str]]:
    """The answers to examples that a filter rejected, and the ids of those whose answer cannot be read back."""
    # The text of several is no single answer's.
    single = manifest.details["teacher"].get("sampling", {}).get("n", 1) == 1
    found: dict[str, TeacherAnswer] = {}
    lost: set[str] = set()
    for row in _rows(labels, "rejects", ["id", "reason", "output"]):
        if row["id"] not in by_id or row["reason"] not in _FILTERED:
            continue
        answer = _parsed(row["output"], by_id[row["id"]], task) if single and row["reason"] in _ANSWERED else None
        if answer is None:
            lost.add(row["id"])
        else:
            found[row["id"]] = answer
    return found, lost - found.keys()


def _parsed(text: str, example: Example, task: Task) -> TeacherAnswer | None:
    try:
        answer = task.parse(text, example)
    except UnparsableError:
        return None
    return TeacherAnswer(answer.label, answer.rationale)


def majority_label(labels: Store, share: float, task: Task) -> Majority | None:
    """The most frequent label of the training rows, by what the task scores; None where there are no training rows.

    Of labels that are equally frequent, the one whose key sorts first.

    Args:
        share: of train that was held out of the training by the hash of the id. Other held-out examples are files: that one of them has
            the id of a training row says nothing of that row.
    """
    golds, given = Counter[str](), Counter[str]()  # of texts: a corpus has many rows, and few of them
    for row in _rows(labels, "data", ["id", "gold", "label"]):
        if not is_validation(row["id"], share):
            given[row["label"]] += 1
            if row["gold"] is not None:
                golds[row["gold"]] += 1
    texts = golds or given
    if not texts:
        return None
    keys = {text: task.key(text) for text in texts}
    counts = Counter[str]()
    for text, rows in texts.items():
        counts[keys[text]] += rows
    key = min(counts, key=lambda k: (-counts[k], k))
    label = min(text for text in texts if keys[text] == key)
    return Majority(label, counts[key], texts.total(), "gold" if golds else "teacher")


def _rows(labels: Store, folder: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for name in labels.files(folder, ".parquet"):
        with labels.fs.open_input_file(labels.path(name)) as file:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=columns):
                yield from batch.to_pylist()
