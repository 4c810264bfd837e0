"""The report: what was measured -> report.json, a readable table, Markdown and predictions.parquet.

`report.json` (shares are between 0 and 1, times in seconds; null: there is no such figure, `note` says why):

    {"format": 2, "run": "svamp", "headline": "The student (57M parameters) is right on 61.5% ...",
     "task": {"name": "arithmetic", "version": "1"},
     "heldout": {"split": "test", "scored": 200, "without_gold": {"count": 1, "ids": ["apples-9"]}, "unreadable": 0,
                 "trained_on": {"count": 0, "ids": []}},
     "student": {"fingerprint": "...", "method": "step-by-step", "family": "decoder-only", "parameters": 57000000},
     "systems": [{"name": "student" | "untrained" | "teacher" | "majority", "correct": 123, "total": 200,
                  "unanswered": 4, "too_long": 0, "accuracy": 0.615, "interval": [0.546, 0.68], "seconds": 9.1,
                  "prompt_tokens": 7012, "output_tokens": 1410, "note": ""}],
     "comparisons": [{"student_vs": "majority", "better": 119, "worse": 4, "p_value": 1e-30, "difference": 0.575,
                      "difference_interval": [0.5, 0.64]}],
     "calibration": {"error": 0.12, "bins": [{"count": 40, "confidence": 0.91, "accuracy": 0.8} | null, ...]},
     "confusion": [{"gold": "neutral", "student": "entailment" | null, "count": 9}, ...] | null,
     "majority": {"label": "8 / 2", "count": 9, "rows": 400, "of": "gold"} | null,
     "errors": [{"id": "...", "input": "...", "gold": "4 - 1", "student": "4 + 1", "confidence": 0.98,
                 "teacher": "4 - 1" | null}],
     "provenance": {"labels": {...}}, "versions": {"torch": "2.13.0"}, "seconds": 31.2,
     "created": "2026-01-31T12:00:00+00:00"}

`trained_on`: held-out examples whose input is a training row's; they are scored all the same. `unanswered`: examples with
no answer that the task can read; they count as wrong. `too_long`: those of them whose input is above the student's
max_input_tokens. `interval`: Wilson 95%. `comparisons`: exact McNemar on the same examples, `better` = only the student is
right; `difference` of the accuracies with its 95% interval (Bonett and Price). `calibration`: ten bins of the student's
confidence, and the expected calibration error. `confusion`: where there are at most 20 gold labels. `errors`: the student's
20 most confident wrong answers; all answers are in predictions.parquet.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.artifacts import Store
from pipelines.evaluate.metrics import calibration, difference, paired, score
from pipelines.tasks import Example

if TYPE_CHECKING:
    from rich.table import Table

REPORT = "report.json"
TITLES = {"student": "student", "untrained": "untrained student", "teacher": "teacher", "majority": "majority label"}
SIGNIFICANCE = 0.05
NUM_ERRORS = 20
_MOST_LABELS = 20

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
    ]
)


@dataclass(frozen=True)
class System:
    """One system's answers, in the order of the examples. Without answers (`labels` is empty) `note` says why."""

    name: str
    labels: tuple[str | None, ...] = ()
    """Normalised; None where there is no answer that the task can read."""
    right: tuple[bool, ...] = ()
    texts: tuple[str, ...] = ()
    """As written; students only, like all that follows."""
    confidences: tuple[float, ...] = ()
    too_long: int = 0
    seconds: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """Its entry in report.json."""
        measured = score(self.right) if self.right else None
        return {
            "name": self.name,
            "correct": measured.correct if measured else None,
            "total": measured.total if measured else None,
            "unanswered": sum(label is None for label in self.labels) if measured else None,
            "too_long": self.too_long,
            "accuracy": measured.accuracy if measured else None,
            "interval": [measured.low, measured.high] if measured else None,
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "note": self.note,
        }


def results(examples: Sequence[Example], student: System, others: Sequence[System], parameters: int) -> dict[str, Any]:
    """The measured part of report.json: headline, systems, comparisons, errors."""
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
        "confusion": _confusion(examples, student),
        "errors": _errors(examples, student, next((o for o in others if o.name == "teacher"), None)),
    }


def _difference(student: System, other: System) -> dict[str, Any]:
    found = difference(student.right, other.right)
    return {"difference": found.value, "difference_interval": [found.low, found.high]}


def _confusion(examples: Sequence[Example], student: System) -> list[dict[str, Any]] | None:
    """How often the student answers what where what is right, the most frequent first; None where labels are too many to list."""
    if len({example.gold for example in examples}) > _MOST_LABELS:
        return None
    counts = Counter((str(e.gold), label) for e, label in zip(examples, student.labels, strict=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [{"gold": gold, "student": label, "count": count} for (gold, label), count in ordered]


def headline(systems: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]], parameters: int) -> str:
    """One sentence: how good the student is, and whether that is shown to be better than no training at all."""
    by_name = {system["name"]: system for system in systems}
    student = by_name["student"]
    low, high = student["interval"]
    said = (
        f"The student ({_count(parameters)} parameters) is right on {_percent(student['accuracy'])}% "
        f"({_percent(low)}-{_percent(high)}) of {student['total']:,} held-out examples"
    )
    for comparison in comparisons:
        name = comparison["student_vs"]
        if name in ("majority", "untrained"):
            verdict = f"{_verdict(comparison)}, {_p(comparison['p_value'])}"
            said += f"; the {TITLES[name]} on {_percent(by_name[name]['accuracy'])}% ({verdict})"
    return said + "."


def table(report: Mapping[str, Any]) -> Table:
    """The systems of a report.json as a table for the terminal."""
    from rich.table import Table

    shown = Table(title=f"{report['run']}: {report['heldout']['scored']:,} held-out examples", title_justify="left")
    for position, name in enumerate(_COLUMNS):
        shown.add_column(name, justify="left" if position == 0 else "right")
    for cells in _cells(report):
        shown.add_row(*cells, style="bold" if cells[0] == TITLES["student"] else None)
    notes = _notes(report)
    if notes:
        shown.caption = "\n".join(notes)
        shown.caption_justify = "left"
    return shown


def markdown(report: Mapping[str, Any]) -> str:
    """report.md."""
    lines = [f"# {report['run']}", "", report["headline"], "", "![Accuracy](accuracy.png)", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(report)]
    lines += ["", *(f"- {note}" for note in [*_EXPLANATIONS, *_notes(report)])]
    lines += ["", *_calibration_lines(report["calibration"])]
    if report["confusion"]:
        lines += ["", "## What the student answers", "", "| gold | student | examples |", "|---|---|---:|"]
        lines += [f"| {c['gold']} | {c['student'] or '(no answer)'} | {c['count']:,} |" for c in report["confusion"]]
    if report["errors"]:
        lines += ["", f"## The student's most confident errors ({len(report['errors'])})", ""]
        lines += ["| id | input | gold | student | teacher | confidence |", "|---|---|---|---|---|---:|"]
        lines += [_error_line(error) for error in report["errors"]]
    student, task = report["student"], report["task"]
    lines += [
        "",
        "## Provenance",
        "",
        f"- student: {student['family']}, {student['parameters']:,} parameters, method {student['method']}, "
        f"fingerprint `{student['fingerprint'][:12]}`",
        f"- task: {task['name']}, version {task['version']}",
        f"- labels: `{json.dumps(report['provenance'].get('labels', {}), ensure_ascii=False)}`",
        f"- versions: {', '.join(f'{k} {v}' for k, v in report['versions'].items())}",
        f"- made {report['created']} in {report['seconds']:.1f} s",
    ]
    return "\n".join(lines) + "\n"


def _calibration_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Confidence"
    yield ""
    yield f"Expected calibration error {found['error']:.3f}: how far, on average, confidence and the share that is right are apart."
    yield ""
    yield "| confidence | answers | mean confidence | right |"
    yield "|---|---:|---:|---:|"
    for tenth, one in enumerate(found["bins"]):
        if one:
            shares = f"{_percent(one['confidence'])}% | {_percent(one['accuracy'])}%"
            yield f"| {tenth / 10:.1f} to {(tenth + 1) / 10:.1f} | {one['count']:,} | {shares} |"


def predictions(examples: Sequence[Example], systems: Sequence[System]) -> bytes:
    """predictions.parquet: every answer to every example, with schema PREDICTION."""
    import pyarrow.parquet as pq

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
        }
        for i, example in enumerate(examples)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTION), buffer)
    return buffer.getvalue()


def load(store: Store) -> dict[str, Any]:
    """The report.json of a report folder."""
    loaded: dict[str, Any] = json.loads(store.read(REPORT))
    return loaded


_COLUMNS = (
    "system", "right", "accuracy", "95% interval", "no answer", "student ahead by", "only student right", "only it right", "p",
)  # fmt: skip
_EXPLANATIONS = (
    "interval: Wilson 95%. An example without an answer that the task can read counts as wrong.",
    "student ahead by: points of accuracy, with the 95% interval of the paired difference (Bonett and Price).",
    "p: exact McNemar test of the student against the line's system, on the same examples.",
)


def _cells(report: Mapping[str, Any]) -> list[list[str]]:
    against = {comparison["student_vs"]: comparison for comparison in report["comparisons"]}
    rows = []
    for system in report["systems"]:
        cells = [TITLES[system["name"]]]
        if system["accuracy"] is None:
            cells += ["-"] * (len(_COLUMNS) - 1)
        else:
            low, high = system["interval"]
            cells += [f"{system['correct']:,} of {system['total']:,}", f"{_percent(system['accuracy'])}%"]
            cells += [f"{_percent(low)}-{_percent(high)}%", f"{system['unanswered']:,}"]
            versus = against.get(system["name"])
            if versus is None:
                cells += [""] * 4
            else:
                low, high = versus["difference_interval"]
                cells += [f"{100 * versus['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"]
                cells += [f"{versus['better']:,}", f"{versus['worse']:,}", _p(versus["p_value"]).removeprefix("p = ")]
        rows.append(cells)
    return rows


def _notes(report: Mapping[str, Any]) -> list[str]:
    notes = [f"{TITLES[s['name']]}: {s['note']}" for s in report["systems"] if s["note"]]
    notes += [
        f"{TITLES[s['name']]}: {s['too_long']:,} inputs are longer than it reads and have no answer"
        for s in report["systems"]
        if s["too_long"]
    ]
    missing = report["heldout"]["without_gold"]
    if missing["count"]:
        more = ", ..." if missing["count"] > len(missing["ids"]) else ""
        notes.append(f"not scored, without gold label: {missing['count']:,} ({', '.join(missing['ids'])}{more})")
    shared = report["heldout"]["trained_on"]
    if shared["count"]:
        more = ", ..." if shared["count"] > len(shared["ids"]) else ""
        ids = ", ".join(shared["ids"])
        notes.append(f"scored, although their input is a training row's: {shared['count']:,} ({ids}{more})")
    if report["heldout"]["unreadable"]:
        notes.append(f"not scored, rows that the task cannot read: {report['heldout']['unreadable']:,}")
    return notes


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


def _error_line(error: Mapping[str, Any]) -> str:
    parts = (error["id"], error["input"], error["gold"], error["student"], error["teacher"] or "-")
    cells = (" ".join(str(part).split()).replace("\\", "\\\\").replace("|", "\\|") for part in parts)
    short = [cell if len(cell) <= 300 else cell[:297] + "..." for cell in cells]
    return f"| {' | '.join(short)} | {error['confidence']:.2f} |"


def _verdict(comparison: Mapping[str, Any]) -> str:
    if comparison["p_value"] >= SIGNIFICANCE:
        return "no difference is shown"
    return "the student is better" if comparison["better"] > comparison["worse"] else "the student is worse"


def _p(value: float) -> str:
    if value == 0.0:  # below the smallest double
        return "p < 1e-300"
    return f"p = {value:.3f}" if value >= 0.001 else f"p = {value:.0e}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 10 else f"{scaled:.0f}{unit}"
    return str(number)
