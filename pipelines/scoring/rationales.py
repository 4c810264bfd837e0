"""What can be said of rationales without a person who judges them. Pure functions.

In: rationales, each with the label that its writer gave and its example. Out: report.json's `rationale`:

    {"of": "student", "examples": 200, "empty": 3, "leads_to_label": 0.91, "states_gold": 0.58, "repeats_input": 0.02,
     "words": {"p10": 6, "median": 13, "p90": 22}}

and, of a student that reads the teacher's, its `rationales_read`:

    {"examples": 200, "without": 3, "states_gold": 0.58}

The shares are of the rationales that are not empty. `leads_to_label`: it arrives at its writer's own label; one without a label arrives
nowhere; null where the task cannot tell (Task.leads_to). `states_gold`: it says the gold label anywhere (Task.states), so that a student
which reads it need not find it. `repeats_input`: at least REPEATED of its word 3-grams are the input's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.data.near_duplicates import shingles
from pipelines.reports.format import percent
from pipelines.scoring.reference_systems import TeacherAnswers
from pipelines.tasks import Example, Task

REPEATED = 0.7
"""Of PaLM 540B's rationales 1% repeat so much of the question in SVAMP, which they quote, and none in CommonsenseQA."""
MOST_SAMPLED = 200
"""Where rationales cost a pass of their own, so many examples stand for all."""


@dataclass(frozen=True)
class WrittenRationale:
    """A rationale and what belongs to it."""

    rationale: str
    label: str | None
    """Its writer's; None where it gave none."""
    example: Example


def sample_of(examples: Sequence[Example], most: int = MOST_SAMPLED) -> list[int]:
    """The positions of the examples whose rationales are looked at, rising: all, or those with the smallest hashes of their ids.

    The same ones for every student, and most of them stay when examples are added.
    """
    by_hash = sorted(
        range(len(examples)), key=lambda i: hashlib.sha256(f"rationale:{examples[i].id}".encode()).digest()
    )
    return sorted(by_hash[:most])


def quality(
    of: Literal["student", "teacher"], written: Sequence[WrittenRationale], task: Task
) -> dict[str, Any] | None:
    """The signals of one writer's rationales; None where there are none to look at."""
    if not written:
        return None
    some = [one for one in written if one.rationale.strip()]
    leading = [one.label is not None and task.leads_to(one.rationale, one.label, one.example) for one in some]
    return {
        "of": of,
        "examples": len(written),
        "empty": len(written) - len(some),
        "leads_to_label": None if None in leading else _share([bool(leads) for leads in leading]),
        "states_gold": _share(
            [one.example.gold is not None and task.states(one.rationale, one.example.gold, one.example) for one in some]
        ),
        "repeats_input": _share([_copied(one) >= REPEATED for one in some]),
        "words": _spread([len(one.rationale.split()) for one in some]),
    }


def rationales_read(answers: TeacherAnswers, examples: Sequence[Example], task: Task) -> dict[str, int | float | None]:
    """What a student that reads the teacher's rationales is given: to how many examples there is none, and what they betray."""
    said = {e.id: answers.by_id[e.id].rationale for e in examples if e.id in answers.by_id}
    found = [(said[e.id], e) for e in examples if said.get(e.id, "").strip()]
    stated = [e.gold is not None and task.states(rationale, e.gold, e) for rationale, e in found]
    return {"examples": len(examples), "without": len(examples) - len(found), "states_gold": _share(stated)}


def told_of_read(found: Mapping[str, Any]) -> str:
    """`rationales_read` in words, after the name of the student that reads them."""
    said = "reads the teacher's rationales"
    if found["states_gold"]:
        said += f", of which {percent(found['states_gold'])} state the gold label, which helps its accuracy"
    if found["without"]:
        said += f"; to {found['without']:,} of {found['examples']:,} examples there is none"
    return said


def _copied(one: WrittenRationale) -> float:
    said = shingles(one.rationale)
    return len(said & shingles(one.example.input)) / len(said)


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _spread(counts: Sequence[int]) -> dict[str, int] | None:
    """The count below which a tenth, half and nine tenths of them lie, each one of them."""
    ordered = sorted(counts)
    shares = {"p10": 0.1, "median": 0.5, "p90": 0.9}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()} if ordered else None
