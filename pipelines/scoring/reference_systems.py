"""Systems that students are compared with, from the labels: the teacher's answers and the majority label.

    teacher_answers(...) -> TeacherAnswers({"apples-17": TeacherAnswer("4 - 1", "Anne gives 1 away.", 291, 14), ...})
    majority_label(...)  -> Majority(label="neutral", count=61, rows=150, of="gold")

Answers to files of held-out examples (a test set, a validation file) are stored unfiltered beside the labels. If a share of train is
scored instead, its answers went through the filters of the labels. Filtered answers are recovered from the rejects, so that the
teacher is not scored on what its filters left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipelines.config import CorpusConfig
from pipelines.data.heldout import has_heldout_files, validation_share
from pipelines.data.label_parts import LabelParts
from pipelines.errors import UnparsableError
from pipelines.storage.manifest import Manifest, require_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task

_WITH_LABEL = frozenset({"disagrees_with_gold", "low_agreement", "rationale_length", "gives_label_away"})
"""Reject reasons whose `output` is a text with a label."""
_BY_FILTER = _WITH_LABEL | {"tie", "near_duplicate"}
"""Reject reasons that do not reflect on the teacher: held-out files have no such filter. Near duplicates were never sent to it."""


@dataclass(frozen=True)
class Majority:
    """The most frequent label of the training rows."""

    label: str
    count: int
    rows: int
    """Training rows that have a label of this kind."""
    of: Literal["gold", "teacher"]
    """teacher: no training row has a gold label."""


@dataclass(frozen=True)
class TeacherAnswer:
    """The teacher's answer to an example. Tokens are None if they were not recorded: rejects have none."""

    label: str
    rationale: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    """Of all samples; 0 in a recording without token counts."""


@dataclass(frozen=True)
class TeacherAnswers:
    """The teacher's answers to the held-out examples."""

    by_id: Mapping[str, TeacherAnswer] = field(default_factory=dict)
    of_other_inputs: int = 0
    """Ignored answers: their id is that of an example, their input is not."""
    filtered: int = 0
    """Examples that a filter rejected and whose answer cannot be recovered."""
    hinted: bool = False
    """True if some answers may have been given with the gold label as a hint. Then no answer is used."""

    def notes(self) -> list[str]:
        """Limits of these answers."""
        notes = []
        if self.hinted:
            notes.append(
                "the labels have answers to validation rows that were given with the gold label as a hint; "
                "set corpus.test, or label again"
            )
        if self.filtered:
            notes.append(
                f"filters of the labels rejected {self.filtered:,} of the held-out examples, and their answers are unknown; "
                "set corpus.test, whose answers are not filtered"
            )
        if self.of_other_inputs:
            notes.append(
                f"{self.of_other_inputs:,} of its answers have the id of an example and another input; they are ignored"
            )
        return notes


def teacher_answers(labels: Store, corpus: CorpusConfig, examples: Sequence[Example], task: Task) -> TeacherAnswers:
    """The teacher's answers to the held-out examples.

    An answer counts if its input is the example's: the labels may be of another test set with the same ids.
    """
    by_id = {example.id: example for example in examples}
    from_train = not has_heldout_files(corpus)
    manifest = require_manifest(labels, "labels", "label RUN")
    if from_train and _rationalised(manifest, validation_share(corpus.validation)):
        return TeacherAnswers(hinted=True)
    columns = ["label", "rationale", "prompt_tokens", "output_tokens"]
    found: dict[str, TeacherAnswer] = {}
    others = 0
    for row in LabelParts.of(labels).read_rows("data" if from_train else "heldout/data", ["id", "input", *columns]):
        if row["id"] not in by_id:
            continue
        if row["input"] == by_id[row["id"]].input:
            found[row["id"]] = TeacherAnswer(**{name: row[name] for name in columns})
        else:
            others += 1
    if not from_train:
        return TeacherAnswers(found, others)
    recovered, lost = _rejected(labels, manifest, by_id, task)
    return TeacherAnswers({**recovered, **found}, others, len(lost - found.keys()))


def _rationalised(labels: Manifest, share: float) -> bool:
    """True if rows of this share of train may have been answered again with the gold label as a hint.

    `never_rationalised` is the share without such rows. Labels of early versions lack it.
    """
    rationalises = labels.identity.get("teacher", {}).get("filters", {}).get("gold") == "rationalise"
    return rationalises and float(labels.identity.get("never_rationalised", 0.0)) < share


def _rejected(
    labels: Store, manifest: Manifest, by_id: Mapping[str, Example], task: Task
) -> tuple[dict[str, TeacherAnswer], set[str]]:
    """Answers that a filter rejected, and the ids of examples whose rejected answer cannot be recovered."""
    # The output of several samples is not the text of one answer.
    single = manifest.details["teacher"].get("sampling", {}).get("n", 1) == 1
    found: dict[str, TeacherAnswer] = {}
    lost: set[str] = set()
    for row in LabelParts.of(labels).read_rows("rejects", ["id", "reason", "output"]):
        if row["id"] not in by_id or row["reason"] not in _BY_FILTER:
            continue
        answer = _parsed(row["output"], by_id[row["id"]], task) if single and row["reason"] in _WITH_LABEL else None
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
    """The most frequent label of the training rows, by `Task.key`; None without training rows.

    Of equally frequent labels, the one whose key sorts first.

    Args:
        share: of train that the training held out by the hash of the id.
    """
    golds, given = Counter[str](), Counter[str]()  # by text: few distinct ones, so that keys are computed once each
    for row in LabelParts.of(labels).training_rows(share, ["gold", "label"]):
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
