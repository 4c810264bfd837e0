"""Cron schedules as robfig/cron's ParseStandard reads them: five fields, or a descriptor such as @daily or @every 1h30m."""

from __future__ import annotations

from tests.k8s.checker.operator.durations import duration_s
from tests.k8s.checker.quantities import integer

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_FIELDS: list[tuple[str, int, int, dict[str, int]]] = [
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    # 7 is no Sunday here, unlike in Vixie cron.
    ("day of the week", 0, 6, {name: number for number, name in enumerate(_DAYS)}),
]
_DESCRIPTORS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}


def schedule_error(schedule: str) -> str | None:
    """What is wrong with a schedule, None where it can be read.

    >>> schedule_error("0 99 * * *")
    'hour: 99 is outside 0 to 23'
    """
    if not schedule:
        return "the schedule is empty"
    if schedule.startswith("@"):
        every = schedule.removeprefix("@every ")
        if schedule in _DESCRIPTORS or (every != schedule and duration_s(every) is not None):
            return None
        return f"{schedule!r} is no descriptor; there are {', '.join(sorted(_DESCRIPTORS))} and @every DURATION"
    parts = schedule.split()
    if len(parts) != len(_FIELDS):
        return f"{len(parts)} fields, five are needed"
    for text, (name, low, high, names) in zip(parts, _FIELDS, strict=True):
        for expression in filter(None, text.split(",")):
            wrong = _range_error(expression, low, high, names)
            if wrong:
                return f"{name}: {wrong}"
    return None


def _range_error(expression: str, low: int, high: int, names: dict[str, int]) -> str | None:
    span, *steps = expression.split("/")
    bounds = span.split("-")
    if len(steps) > 1:
        return f"too many slashes in {expression!r}"
    if bounds[0] in ("*", "?"):
        start, end = low, high
    elif len(bounds) > 2:
        return f"too many hyphens in {expression!r}"
    else:
        numbers = [names.get(bound.lower(), _number(bound)) for bound in bounds]
        if None in numbers:
            return f"{expression!r} is no number"
        start, end = int(numbers[0] or 0), int(numbers[-1] or 0)
    if steps:
        step = _number(steps[0])
        if not step:
            return f"the step of {expression!r} is no positive number"
        if len(bounds) == 1:
            end = high
    if start < low or end > high:
        return f"{start if start < low else end} is outside {low} to {high}"
    return f"{start} is after {end}" if start > end else None


def _number(text: str) -> int | None:
    return None if text.startswith("-") else integer(text)
