"""Quality of rationales without a human judge, and of the teacher's rationales that a student reads. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.data.near_duplicates import shingles
from pipelines.reports.format import percent
from pipelines.scoring.model import RationaleQuality, RationalesRead, WordCounts
from pipelines.scoring.reference_systems import TeacherAnswers
from pipelines.tasks import Example, Task

REPEATED = 0.7
"""A rationale repeats the input from this share of common word 3-grams on. PaLM 540B: 1% of its rationales in SVAMP, none in
CommonsenseQA."""
MOST_SAMPLED = 200
"""Examples whose rationales are looked at if they need a pass of their own."""


@dataclass(frozen=True)
class WrittenRationale:
    """A rationale, its writer's label and its example."""

    rationale: str
    label: str | None
    """None if the writer gave no label."""
    example: Example


def sample_of(examples: Sequence[Example], most: int = MOST_SAMPLED, what_for: str = "rationale") -> list[int]:
    """Indices of at most `most` examples, rising: those with the smallest hashes of their ids and the purpose.

    The sample is the same for every student, and mostly stays the same if examples are added.
    """
    hashes = [hashlib.sha256(f"{what_for}:{example.id}".encode()).digest() for example in examples]
    return sorted(sorted(range(len(examples)), key=hashes.__getitem__)[:most])


def quality(
    of: Literal["student", "teacher"], written: Sequence[WrittenRationale], task: Task
) -> RationaleQuality | None:
    """The signals of one writer's rationales; None if there are no rationales."""
    if not written:
        return None
    some = [one for one in written if one.rationale.strip()]
    # A rationale without a label arrives nowhere.
    leading = [one.label is not None and task.leads_to(one.rationale, one.label, one.example) for one in some]
    golds = [one.example.gold is not None and task.states(one.rationale, one.example.gold, one.example) for one in some]
    return RationaleQuality(
        of=of,
        examples=len(written),
        empty=len(written) - len(some),
        leads_to_label=None if None in leading else _share([bool(leads) for leads in leading]),
        states_gold=_share(golds),
        repeats_input=_share([_repeated(one) >= REPEATED for one in some]),
        words=_words([len(one.rationale.split()) for one in some]),
    )


def rationales_read(answers: TeacherAnswers, examples: Sequence[Example], task: Task) -> RationalesRead:
    """The teacher's rationales as a student reads them: how many, and how many contain the gold label."""
    rationales = {e.id: answers.by_id[e.id].rationale for e in examples if e.id in answers.by_id}
    found = [(rationales[e.id], e) for e in examples if rationales.get(e.id, "").strip()]
    stated = [e.gold is not None and task.states(rationale, e.gold, e) for rationale, e in found]
    return RationalesRead(examples=len(examples), without=len(examples) - len(found), states_gold=_share(stated))


def rationales_read_text(found: RationalesRead) -> str:
    """`RationalesRead` in words, to follow the name of the student or method that reads them."""
    text = "reads the teacher's rationales"
    if found.states_gold:
        text += f", and {percent(found.states_gold)} of them state the gold label, which helps its accuracy"
    if found.without:
        text += f"; {found.without:,} of {found.examples:,} examples have no rationale"
    return text


def _repeated(one: WrittenRationale) -> float:
    """Share of the rationale's word 3-grams that are the input's."""
    own = shingles(one.rationale)
    return len(own & shingles(one.example.input)) / len(own)


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _words(counts: Sequence[int]) -> WordCounts | None:
    """Percentiles, each one of the counts."""
    if not counts:
        return None
    ordered, last = sorted(counts), len(counts) - 1
    p10, median, p90 = (ordered[round(share * last)] for share in (0.1, 0.5, 0.9))
    return WordCounts(p10=p10, median=median, p90=p90)
