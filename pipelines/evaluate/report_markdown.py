"""A report to read: its table for the terminal, and report.md. In: report.json (its schema stands in report.py).

What others wrote (inputs, labels, ids, notes that name them) is text in both: no markup of the terminal, no Markdown, no HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.evaluate.report import verdict_said
from pipelines.reports.format import (
    ABSENT,
    duration,
    one_line,
    p_said,
    p_value,
    percent,
    percents,
    points,
    points_range,
    short,
)
from pipelines.scoring.costs import student_facts, teacher_facts
from pipelines.scoring.settings import settings_facts
from pipelines.scoring.system import TITLES

if TYPE_CHECKING:
    from rich.table import Table

_LISTED = 10
_TEXT_CHARACTERS = 300
_WRITER = {"student": "the student's rationales", "teacher": "the teacher's rationales to the held-out examples"}

_COLUMNS = (
    "system", "right", "accuracy", "95% interval", "no answer", "student ahead by", "only student right", "only it right", "p",
)  # fmt: skip
_WEIGHTS_COLUMNS = (
    "weights", "right", "accuracy", "95% interval", "ahead of float32 by", "only these right", "only float32 right", "p", "same label",
    "time per answer",
)  # fmt: skip
_EXPLANATIONS = (
    "interval: Wilson 95%. An example without an answer that the task can read counts as wrong.",
    "student ahead by: points of accuracy, with the 95% interval of the paired difference (Bonett and Price).",
    "better or worse is what the interval of the difference says where it leaves out zero; p, of the exact McNemar test of the student "
    "against the line's system on the same examples, is for information.",
)
_MARKUP = re.compile(r"[\\`\[\]|*]")
"""What means something to Markdown within a line, `2*3*4` among it. HTML's own signs become entities."""


def table(report: Mapping[str, Any]) -> Table:
    """The systems of a report.json as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=f"{report['run']}: {report['heldout']['scored']:,} held-out examples", title_justify="left")
    for position, name in enumerate(_COLUMNS):
        shown.add_column(name, justify="left" if position == 0 else "right")
    for cells in _cells(report):
        shown.add_row(*cells, style="bold" if cells[0] == TITLES["student"] else None)
    notes = _notes(report)
    if notes:
        # As it is: what stands in square brackets is a label or an id, and no markup.
        shown.caption, shown.caption_justify = Text("\n".join(notes)), "left"
    return shown


def markdown(report: Mapping[str, Any]) -> str:
    """report.md."""
    lines = [f"# {report['run']}", "", report["headline"], "", "![Accuracy](accuracy.png)", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(report)]
    lines += ["", *(f"- {note}" for note in [*_EXPLANATIONS, *map(_escaped, _notes(report))])]
    lines += ["", *_calibration_lines(report["calibration"])]
    lines += _weights_lines(report["weights"]) if report["weights"] else []
    lines += _rationale_lines(report["rationale"]) if report["rationale"] else []
    lines += _confusion_lines(report["confusion"], report["confusion_note"])
    if report["errors"]:
        lines += ["", f"## The student's most confident errors ({len(report['errors'])})", ""]
        lines += ["| id | input | gold | student | teacher | confidence |", "|---|---|---|---|---|---:|"]
        lines += [_error_line(error) for error in report["errors"]]
    lines += ["", "## What it costs", ""]
    lines += [
        f"- {name}: {said}"
        for name, said in [*teacher_facts(report["cost"]["teacher"]), *student_facts(report["cost"])]
    ]
    student, task = report["student"], report["task"]
    lines += [
        "",
        "## Provenance",
        "",
        f"- student: {student['family']}, {student['parameters']:,} parameters, method {student['method']}, "
        f"fingerprint `{student['fingerprint'][:12]}`",
        f"- task: {_escaped(task['name'])}, version {_escaped(task['version'])}",
        *(f"- {name[0].lower()}{name[1:]}: {_escaped(said)}" for name, said in settings_facts(report["settings"])),
        f"- labels: {_code(json.dumps(report['provenance'].get('labels', {}), ensure_ascii=False))}",
        f"- versions: {', '.join(f'{k} {v}' for k, v in report['versions'].items())}",
        f"- made {report['created']} in {duration(report['seconds'])}",
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
            shares = f"{percent(one['confidence'])} | {percent(one['accuracy'])}"
            yield f"| {tenth / 10:.1f} to {(tenth + 1) / 10:.1f} | {one['count']:,} | {shares} |"


def _cells(report: Mapping[str, Any]) -> list[list[str]]:
    against = {comparison["student_vs"]: comparison for comparison in report["comparisons"]}
    rows = []
    for system in report["systems"]:
        cells = [TITLES[system["name"]]]
        if system["accuracy"] is None:
            cells += [ABSENT] * (len(_COLUMNS) - 1)
        else:
            cells += [f"{system['correct']:,} of {system['total']:,}", percent(system["accuracy"])]
            cells += [percents(system["interval"]), f"{system['unanswered']:,}"]
            versus = against.get(system["name"])
            if versus is None:
                cells += [""] * 4
            else:
                cells += [f"{points(versus['difference'])} ({points_range(versus['difference_interval'])})"]
                cells += [f"{versus['better']:,}", f"{versus['worse']:,}", p_value(versus["p_value"])]
        rows.append(cells)
    return rows


def _weights_lines(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from (
        "",
        "## In other weights",
        "",
        "What `serving.weights` would cost, against the student in float32 on the same examples.",
        "",
    )
    yield f"| {' | '.join(_WEIGHTS_COLUMNS)} |"
    yield "|---|" + "---:|" * (len(_WEIGHTS_COLUMNS) - 1)
    for found in entries:
        cells = [
            f"{found['weights']} ({found['engine']})",
            f"{found['correct']:,} of {found['total']:,}",
            percent(found["accuracy"]),
        ]
        cells += [
            percents(found["interval"]),
            f"{points(found['difference'])} ({points_range(found['difference_interval'])})",
        ]
        cells += [
            f"{found['better']:,}",
            f"{found['worse']:,}",
            p_value(found["p_value"]),
            percent(found["same_label"]),
        ]
        yield f"| {' | '.join(cells)} | {duration(found['seconds_per_example'])} |"


def _rationale_lines(found: Mapping[str, Any]) -> Iterator[str]:
    words = found["words"]
    yield from (
        "",
        "## Rationales",
        "",
        f"Of {found['examples']:,} of {_WRITER[found['of']]} {found['empty']:,} are empty. Of the others:",
    )
    yield ""
    yield f"- lead to the label that their writer gave: {_share(found['leads_to_label'])}"
    yield f"- state the gold label: {_share(found['states_gold'])}"
    yield f"- repeat the input: {_share(found['repeats_input'])}"
    if words:
        yield f"- words: {words['median']:,} (median), 10% have up to {words['p10']:,}, 90% up to {words['p90']:,}"


def _confusion_lines(found: Sequence[Mapping[str, Any]] | None, note: str) -> Iterator[str]:
    if found or note:
        yield from ("", "## What the student answers", "")
    if note:
        yield from (_escaped(note), "")
    if found:
        yield from ("| gold | student | examples |", "|---|---|---:|")
        for one in found:
            yield _row(one["gold"], one["student"] or "(no answer)", f"{one['count']:,}")


def _share(value: float | None) -> str:
    return "the task cannot tell" if value is None else percent(value)


def _notes(report: Mapping[str, Any]) -> list[str]:
    notes = [_change(report["baseline"])] if report["baseline"] else []
    if votes := report["votes"]:
        answers = f"{votes['n']} answers drawn at temperature {votes['temperature']:g}"
        notes.append(f"students: the most frequent label of {answers}; {percent(votes['agreement'])} of them agree")
    notes += [_in_weights(found) for found in report["weights"]]
    notes += [f"{TITLES[s['name']]}: {s['note']}" for s in report["systems"] if s["note"]]
    for system in report["systems"]:
        if system["too_long"]:
            what = f"{system['too_long']:,} inputs are longer than it reads and have no answer"
            notes.append(f"{TITLES[system['name']]}: {what}")
        if system["seconds_per_example"] is not None:
            tokens = f"{system['prompt_tokens_per_example']:.1f} tokens read, {system['output_tokens_per_example']:.1f} written"
            notes.append(f"{TITLES[system['name']]}: {duration(system['seconds_per_example'])} per example, {tokens}")
    return [one_line(note) for note in (*notes, *_heldout_notes(report["heldout"]))]


def _heldout_notes(heldout: Mapping[str, Any]) -> list[str]:
    notes = []
    missing, unreadable, repeated = heldout["without_gold"], heldout["unreadable"], heldout["duplicates"]
    if missing["count"]:
        notes.append(f"not scored, without gold label: {_listed(missing)}")
    if unreadable["count"]:
        notes.append(
            f"not scored, rows that the task cannot read: {_listed(unreadable)}; {unreadable['problems'][0]['problem']}"
        )
    if repeated["count"]:
        notes.append(f"not scored, rows with the id of an earlier one: {_listed(repeated)}")
    trained_on, chosen_on = heldout["trained_on"], heldout["chosen_on"]
    for shared, on, row in (
        (trained_on, "trained", "training row"),
        (chosen_on, "weights were chosen", "validation example"),
    ):
        if shared and shared["count"]:
            how = f"with the input of a {row} {shared['by']['input']:,}, nearly {shared['by']['near']:,}"
            notes.append(f"scored, although {on} on: {_listed(shared)}; {how}")
    if trained_on["by"]["id"]:
        notes.append(f"examples with the id of a training row, which alone says nothing: {trained_on['by']['id']:,}")
    return notes


def _listed(found: Mapping[str, Any]) -> str:
    more = ", ..." if found["count"] > min(len(found["ids"]), _LISTED) else ""
    return f"{found['count']:,} ({', '.join(found['ids'][:_LISTED])}{more})"


def _in_weights(found: Mapping[str, Any]) -> str:
    """The student in other weights, in one line."""
    ahead = f"{points(found['difference'])} points against float32 ({points_range(found['difference_interval'])})"
    same = f"the same label for {percent(found['same_label'])} of the examples"
    right = f"{percent(found['accuracy'])} right, {ahead}, {p_said(found['p_value'])}"
    return f"student in {found['weights']} ({found['engine']}): {right}; {same}; {duration(found['seconds_per_example'])} per example"


def _change(earlier: Mapping[str, Any]) -> str:
    """The student against the one of an earlier report, in one line."""
    which = f"against the report of {earlier['run']} of {earlier['created'][:10]}"
    if not earlier["same_examples"]:
        total = f"{percent(earlier['accuracy'])} of {earlier['total']:,} there"
        return f"{which}: {total}; not comparable, {earlier['note']}"
    ahead = f"{points(earlier['difference'])} points ({points_range(earlier['interval'])})"
    counts = f"only now right {earlier['better']:,}, only then {earlier['worse']:,}"
    return f"{which}: {ahead}, {counts}, {p_said(earlier['p_value'])}, {verdict_said(earlier['interval'])}"


def _error_line(error: Mapping[str, Any]) -> str:
    parts = (error[key] for key in ("id", "input", "gold", "student"))
    return _row(*parts, error["teacher"] or ABSENT, f"{error['confidence']:.2f}")


def _row(*texts: str) -> str:
    """A row of a Markdown table, its texts each on one line."""
    return f"| {' | '.join(_escaped(short(text, _TEXT_CHARACTERS)) for text in texts)} |"


def _escaped(text: str) -> str:
    """A text of others on one line as Markdown that shows it and does nothing else."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(lambda sign: f"\\{sign[0]}", plain)


def _code(text: str) -> str:
    """A text on one line as a code span, which no backtick in it ends."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{text}{ticks}" if len(ticks) == 1 else f"{ticks} {text} {ticks}"
