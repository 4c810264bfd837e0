"""report.md. Untrusted text (inputs, labels, ids, notes) is neither Markdown nor HTML in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from pipelines.evaluate.costs import student_facts
from pipelines.evaluate.model import ConfusionCell, ErrorExample, QuantizedScores, Report
from pipelines.evaluate.notes import INTERVALS, table_notes
from pipelines.evaluate.terminal_table import COLUMNS, system_cells
from pipelines.reports.format import ABSENT, duration, p_value, percent, percents, points, points_range, short
from pipelines.scoring.costs import teacher_facts
from pipelines.scoring.model import RationaleQuality
from pipelines.scoring.settings import settings_facts
from pipelines.scoring.statistics import Calibration

_TEXT_CHARACTERS = 300
_WEIGHTS_COLUMNS = (
    "weights", "right", "accuracy", "95% interval", "ahead of float32 by", "only these right", "only float32 right", "p", "same label",
    "time per answer",
)  # fmt: skip
_MARKUP = re.compile(r"[\\`\[\]|*]")
"""Markdown syntax within a line. The special characters of HTML become entities."""


def markdown(report: Report) -> str:
    """The file."""
    lines = [
        *(f"# {report.run}", "", report.headline, "", "![Accuracy](accuracy.png)", ""),
        *_table(COLUMNS, system_cells(report)),
        *("", *(f"- {note}" for note in [*INTERVALS, *map(_escaped, table_notes(report))])),
        *("", *_calibration(report.calibration)),
        *(_quantized(report.weights) if report.weights else ()),
        *(_rationales(report.rationale) if report.rationale else ()),
        *_confusion(report.confusion, report.confusion_note),
        *(_errors(report.errors) if report.errors else ()),
        *("", "## Cost", ""),
        *(f"- {name}: {value}" for name, value in [*teacher_facts(report.cost.teacher), *student_facts(report.cost)]),
        *_provenance(report),
    ]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def _calibration(found: Calibration) -> Iterator[str]:
    yield from ("## Calibration", "")
    yield f"Expected calibration error: {found.error:.3f}, the mean distance between confidence and accuracy."
    yield ""
    rows = [
        [
            f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}",
            f"{one.count:,}",
            percent(one.confidence),
            percent(one.accuracy),
        ]
        for tenth, one in enumerate(found.bins)
        if one
    ]
    yield from _table(("confidence", "answers", "mean confidence", "accuracy"), rows)


def _quantized(entries: Sequence[QuantizedScores]) -> Iterator[str]:
    yield from (
        "",
        "## Other weights",
        "",
        "The student with `serving.weights`, against float32 on the same examples.",
        "",
    )
    rows = [
        [
            *(f"{found.weights} ({found.engine})", f"{found.correct:,} of {found.total:,}", percent(found.accuracy)),
            *(percents(found.interval), f"{points(found.difference)} ({points_range(found.difference_interval)})"),
            *(f"{found.better:,}", f"{found.worse:,}", p_value(found.p_value), percent(found.same_label)),
            duration(found.seconds_per_example),
        ]
        for found in entries
    ]
    yield from _table(_WEIGHTS_COLUMNS, rows)


def _rationales(found: RationaleQuality) -> Iterator[str]:
    yield from ("", f"## Rationales of the {found.of}", "")
    yield f"{found.examples:,} rationales, {found.empty:,} of them empty. Of the others:"
    yield ""
    leads = "unknown for this task" if found.leads_to_label is None else percent(found.leads_to_label)
    yield f"- lead to the {found.of}'s label: {leads}"
    yield f"- state the gold label: {percent(found.states_gold)}"
    yield f"- repeat the input: {percent(found.repeats_input)}"
    if words := found.words:
        yield f"- words: {words.median:,} (median), {words.p10:,} (10%), {words.p90:,} (90%)"


def _confusion(found: Sequence[ConfusionCell] | None, note: str) -> Iterator[str]:
    if found or note:
        yield from ("", "## Confusion", "")
    if note:
        yield from (_escaped(note), "")
    if found:
        yield from ("| gold | student | examples |", "|---|---|---:|")
        for one in found:
            yield _row(one.gold, one.student or "(no answer)", f"{one.count:,}")


def _errors(errors: Sequence[ErrorExample]) -> Iterator[str]:
    yield from ("", f"## Most confident errors ({len(errors)})", "")
    yield from ("| id | input | gold | student | teacher | confidence |", "|---|---|---|---|---|---:|")
    for e in errors:
        yield _row(e.id, e.input, e.gold, e.student, e.teacher or ABSENT, f"{e.confidence:.2f}")


def _provenance(report: Report) -> Iterator[str]:
    student, task, settings = report.student, report.task, report.settings
    labels = json.dumps(report.provenance.get("labels", {}), ensure_ascii=False)
    yield from ("", "## Provenance", "")
    yield (
        f"- student: {student.family}, {student.parameters:,} parameters, method {student.method}, "
        f"fingerprint `{student.fingerprint[:12]}`"
    )
    yield f"- task: {_escaped(task.name)}, version {_escaped(task.version)}"
    for name, value in settings_facts(settings.labels, settings.filters, settings.training):
        yield f"- {name[0].lower()}{name[1:]}: {_escaped(value)}"
    yield f"- labels: {_code(labels)}"
    yield f"- versions: {', '.join(f'{library} {version}' for library, version in report.versions.items())}"
    yield f"- created {report.created} in {duration(report.seconds)}"


def _row(*texts: str) -> str:
    """A table row of untrusted texts, each on one line."""
    return f"| {' | '.join(_escaped(short(text, _TEXT_CHARACTERS)) for text in texts)} |"


def _escaped(text: str) -> str:
    """An untrusted line as Markdown that only shows it."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(lambda sign: f"\\{sign[0]}", plain)


def _code(text: str) -> str:
    """A line as a code span with more backticks than any run of them within it."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{text}{ticks}" if len(ticks) == 1 else f"{ticks} {text} {ticks}"
