"""The report: what was measured -> report.json and predictions.parquet. report_text.py and page.py make it readable.

`report.json` (shares are between 0 and 1, times in seconds; null: there is no such figure, `note` says why):

    {"format": 7, "run": "svamp", "headline": "The student (57M parameters) is right on 61.5% ...",
     "task": {"name": "arithmetic", "version": "1"},
     "heldout": {"split": "test", "scored": 200, "without_gold": {"count": 1, "ids": ["apples-9"]},
                 "unreadable": {"count": 1, "ids": ["apples-7"], "problems": [{"id": "apples-7", "problem": "the gold ..."}]},
                 "duplicates": {"count": 1, "ids": ["apples-5"]},
                 "trained_on": {"count": 1, "ids": ["apples-3"], "by": {"id": 0, "input": 1, "near": 0}},
                 "chosen_on": {"count": 0, "ids": [], "by": {"id": 0, "input": 0, "near": 0}} | null},
     "student": {"fingerprint": "...", "method": "step-by-step", "family": "decoder-only", "parameters": 57000000},
     "settings": {"labels": "gold", "filters": {...} | null, "training": {"epochs": 3, "tokens_per_batch": 16384, ...}},
     "systems": [{"name": "student" | "untrained" | "teacher" | "majority", "correct": 123, "total": 200,
                  "unanswered": 4, "too_long": 0, "accuracy": 0.615, "interval": [0.546, 0.68], "seconds": 9.1,
                  "prompt_tokens": 7012, "output_tokens": 1410, "seconds_per_example": 0.02,
                  "prompt_tokens_per_example": 35.1, "output_tokens_per_example": 7.1, "note": ""}],
     "comparisons": [{"student_vs": "majority", "better": 119, "worse": 4, "p_value": 1e-30, "difference": 0.575,
                      "difference_interval": [0.5, 0.64]}],
     "calibration": {"error": 0.12, "bins": [{"count": 40, "confidence": 0.91, "accuracy": 0.8} | null, ...]},
     "confusion": [{"gold": "neutral", "student": "entailment" | null, "count": 9}, ...] | null, "confusion_note": "",
     "rationale": {"of": "student" | "teacher", "examples": 200, "empty": 3, "leads_to_label": 0.91, "states_gold": 0.58,
                   "repeats_input": 0.02, "words": {"p10": 6, "median": 13, "p90": 22}} | null,
     "weights": [{"weights": "int8", "engine": "ctranslate2", "correct": 121, "same_label": 0.985, ...}],
     "votes": {"n": 5, "temperature": 0.7, "agreement": 0.88} | null,
     "baseline": {"run": "svamp", "created": "...", "accuracy": 0.59, "total": 200, "same_examples": true, "difference": 0.025,
                  "interval": [-0.03, 0.08], "better": 19, "worse": 14, "p_value": 0.487, "note": ""} | null,
     "majority": {"label": "8 / 2", "count": 9, "rows": 400, "of": "gold"} | null,
     "cost": {"teacher": {...}, "training": {"seconds": 911.0, ...}, "answers": {...}},
     "errors": [{"id": "...", "input": "...", "gold": "4 - 1", "student": "4 + 1", "confidence": 0.98,
                 "teacher": "4 - 1" | null}],
     "provenance": {"labels": {...}}, "versions": {"torch": "2.13.0"}, "seconds": 31.2,
     "created": "2026-01-31T12:00:00+00:00"}

`unreadable`: rows that the task cannot read, those with a gold label that is none among them; not scored, and counted. `duplicates`: rows
with the id of an earlier one; not scored. Of both, of `without_gold`, `trained_on` and `chosen_on` 100 are listed. `trained_on`: held-out
examples that the student was trained on, by the same input or nearly the same one; they are scored all the same (overlap.py, also of
`by`). `chosen_on`: the same of validation examples, where weights were chosen on them; null where none were, and where the validation
split is what is scored, of which the student's `note` tells. `unanswered`: examples with no answer that the task can read; they count as
wrong. `too_long`: those of them whose input is above the student's max_input_tokens. `interval`: Wilson 95%. `seconds`: with
the loading of the model and, of the system that is asked first (the student), the workers' start; `seconds_per_example`: a worker's time of
answering, without them and without a first token. Tokens and times of several samples are
added up. `comparisons`: exact McNemar on the same examples, `better` = only the student is right; `difference` of the accuracies with its
95% interval (Bonett and Price), which decides what is called better (metrics.verdict). `calibration`: ten bins of the student's
confidence, and the expected calibration error. `confusion`: where there are at most 20 gold labels; labels that mean the same are one. Of
examples with choices of their own it is of the places of the labels among them, `(a)`, `(b)` ...; `confusion_note` says so, or why there is
none. `settings`: of the student's training (settings.py). `cost`: costs.py; worked out anew for another price, without scoring anything.
`rationale`: rationales.py. `weights`: the student in other weights than float32, where `evaluation.weights` names some (weights.py).
`votes`: where students answer several times (evaluation.samples); a confidence is then the share of the samples that agree. `baseline`:
the student against the one of an earlier report, where one was asked for (baseline.py). `errors`: the student's 20 most confident wrong
answers; all answers are in predictions.parquet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipelines.config.base import LossyWeights
from pipelines.reports.format import p_said, percent, percents, rounded
from pipelines.scoring.statistics import calibration, difference, paired, verdict
from pipelines.scoring.system import TITLES, System
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from pipelines.tasks import Example

REPORT = "report.json"
PREDICTIONS = "predictions.parquet"
NUM_ERRORS = 20
_MOST_LABELS = 20
_OF_PLACES = "A letter is a place among the choices of an example, which are other ones in each: (a) is the first."
_TOO_MANY = f"Not listed: there are {{kinds:,}} different gold labels, and a list is made of at most {_MOST_LABELS}."
_Pair = tuple[str, str | None]
"""The right label, and the student's."""

_IN_WEIGHTS = pa.struct(
    [
        pa.field("weights", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # normalised; null where the text is no label
        pa.field("right", pa.bool_(), nullable=False),
    ]
)

PREDICTION = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("gold", pa.string(), nullable=False),
        pa.field("student_text", pa.string(), nullable=False),  # as the student wrote it
        pa.field("student_label", pa.string()),  # normalised; null where the text is no label
        pa.field("student_right", pa.bool_(), nullable=False),
        pa.field("student_confidence", pa.float32(), nullable=False),
        pa.field("untrained_text", pa.string(), nullable=False),
        pa.field("untrained_right", pa.bool_(), nullable=False),
        pa.field("teacher_label", pa.string()),  # null where the teacher gave none
        pa.field("teacher_right", pa.bool_()),  # null where there are no teacher answers at all
        pa.field("majority_right", pa.bool_()),  # null where there is no majority label
        pa.field("weights", pa.list_(_IN_WEIGHTS), nullable=False),  # an entry for each of evaluation.weights
    ]
)


def results(
    examples: Sequence[Example], student: System, others: Sequence[System], parameters: int, key: Callable[[str], str]
) -> dict[str, Any]:
    """The measured part of report.json: headline, systems, comparisons, errors. `key`: what the task compares of a label (Task.key)."""
    systems = [system.row() for system in (student, *others)]
    comparisons = [
        {"student_vs": other.name, **vars(paired(student.right, other.right)), **_difference(student, other)}
        for other in others
        if other.right
    ]
    return {
        "headline": headline(systems, comparisons, parameters),
        "systems": systems,
        "comparisons": comparisons,
        "calibration": asdict(calibration(student.confidences, student.right)),
        **_confusion(examples, student.labels, key),
        "errors": _errors(examples, student, next((o for o in others if o.name == "teacher"), None)),
    }


def _difference(student: System, other: System) -> dict[str, Any]:
    found = difference(student.right, other.right)
    return {"difference": found.value, "difference_interval": [found.low, found.high]}


def _confusion(examples: Sequence[Example], labels: Sequence[str | None], key: Callable[[str], str]) -> dict[str, Any]:
    """How often the student answers what where what is right, the most frequent first, and what has to be known of it.

    None where labels are too many to list.
    """
    pairs, note = _by_place(examples, labels), _OF_PLACES
    if pairs is None:
        pairs, note = _by_meaning(examples, labels, key), ""
        kinds = len({gold for gold, _ in pairs})
        if kinds > _MOST_LABELS:
            return {"confusion": None, "confusion_note": _TOO_MANY.format(kinds=kinds)}
    ordered = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    found = [{"gold": gold, "student": label, "count": count} for (gold, label), count in ordered]
    return {"confusion": found, "confusion_note": note}


def _by_place(examples: Sequence[Example], labels: Sequence[str | None]) -> list[_Pair] | None:
    """Right and given label by their places among the example's choices; None where one is not among them, there are no choices, or all
    examples have the same ones, which are labels then (`yes`, `no`).

    Of choices with the same text, which are one answer, the first stands for all.
    """
    if len({frozenset(example.choices) for example in examples}) == 1:
        return None
    pairs: list[_Pair] = []
    for example, label in zip(examples, labels, strict=True):
        gold, letters = str(example.gold), dict[str, str]()
        for place, choice in enumerate(example.choices):
            letters.setdefault(choice, f"({chr(ord('a') + place)})")
        if gold not in letters or (label is not None and label not in letters):
            return None
        pairs.append((letters[gold], None if label is None else letters[label]))
    return pairs


def _by_meaning(examples: Sequence[Example], labels: Sequence[str | None], key: Callable[[str], str]) -> list[_Pair]:
    """Right and given label. Of labels that mean the same one spelling stands for all, a gold one where there is any: `4` for the gold
    label `8 / 2` is right."""
    golds = sorted({str(example.gold) for example in examples})
    spelling: dict[str, str] = {}
    for label in [*golds, *sorted({label for label in labels if label is not None})]:
        spelling.setdefault(key(label), label)
    return [
        (spelling[key(str(e.gold))], None if label is None else spelling[key(label)])
        for e, label in zip(examples, labels, strict=True)
    ]


def headline(systems: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]], parameters: int) -> str:
    """One sentence: how good the student is, and whether that is shown to be better than no training at all."""
    by_name = {system["name"]: system for system in systems}
    student = by_name["student"]
    said = (
        f"The student ({rounded(parameters)} parameters) is right on {percent(student['accuracy'])} "
        f"({percents(student['interval'])}) of {student['total']:,} held-out examples"
    )
    for comparison in comparisons:
        name = comparison["student_vs"]
        if name in ("majority", "untrained"):
            shown = f"{verdict_said(comparison['difference_interval'])}, {p_said(comparison['p_value'])}"
            said += f"; the {TITLES[name]} on {percent(by_name[name]['accuracy'])} ({shown})"
    return said + "."


def predictions(
    examples: Sequence[Example], systems: Sequence[System], in_weights: Mapping[LossyWeights, System] | None = None
) -> bytes:
    """predictions.parquet: every answer to every example, with schema PREDICTION. `in_weights`: the student in other weights."""
    by_name = {system.name: system for system in systems}
    student, untrained = by_name["student"], by_name["untrained"]
    teacher, majority = by_name["teacher"], by_name["majority"]
    rows = [
        {
            "id": example.id,
            "input": example.input,
            "gold": example.gold,
            "student_text": student.texts[i],
            "student_label": student.labels[i],
            "student_right": student.right[i],
            "student_confidence": student.confidences[i],
            "untrained_text": untrained.texts[i],
            "untrained_right": untrained.right[i],
            "teacher_label": teacher.labels[i] if teacher.right else None,
            "teacher_right": teacher.right[i] if teacher.right else None,
            "majority_right": majority.right[i] if majority.right else None,
            "weights": [
                {"weights": weights, "label": recast.labels[i], "right": recast.right[i]}
                for weights, recast in (in_weights or {}).items()
            ],
        }
        for i, example in enumerate(examples)
    ]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=PREDICTION))


def load(store: Store) -> dict[str, Any]:
    """The report.json of a report folder."""
    loaded: dict[str, Any] = json.loads(store.read(REPORT))
    return loaded


def _errors(examples: Sequence[Example], student: System, teacher: System | None) -> list[dict[str, Any]]:
    wrong = [i for i, right in enumerate(student.right) if not right]
    wrong.sort(key=lambda i: (-student.confidences[i], i))
    return [
        {
            "id": examples[i].id,
            "input": examples[i].input,
            "gold": examples[i].gold,
            "student": student.texts[i],
            "confidence": round(student.confidences[i], 4),
            "teacher": teacher.labels[i] if teacher and teacher.labels else None,
        }
        for i in wrong[:NUM_ERRORS]
    ]


def verdict_said(interval: Sequence[float]) -> str:
    """What the interval of a difference shows of the student, within a sentence."""
    found = verdict(interval)
    return {"ahead": "the student is better", "behind": "the student is worse"}.get(found, found)
