"""Formats of numbers and texts on pages and in terminals. Pure functions; None is always `-`.

percent(0.1234)                 -> "12.3%"          percents([0.03, 0.12])          -> "3.0 to 12.0%"
points(0.032)                   -> "+3.2"           points_range([-0.012, 0.076])   -> "-1.2 to +7.6"
number(134515008)               -> "134,515,008"    rounded(134515008)              -> "135M"
duration(912.0)                 -> "15 min 12 s"    p_value(0.0004)                 -> "4e-04"          p_text(0.25) -> "p = 0.250"
short("a  long\ntext", 8)       -> "a long …"        one_line("a\x1b[2J  b")        -> "a [2J b"
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.runtime import durations

ABSENT = "-"


def percent(share: float | None) -> str:
    """A share as percent with one decimal."""
    return ABSENT if share is None else f"{100 * share:.1f}%"


def percents(interval: Sequence[float] | None) -> str:
    """Both bounds of an interval of shares."""
    return ABSENT if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}%"


def fraction(share: float) -> str:
    """A chosen share with as many decimals as it has: `12.5%`, `100%`."""
    return f"{100 * share:.4g}%"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, always with a sign."""
    return ABSENT if difference is None else f"{100 * difference:+.1f}"


def points_range(interval: Sequence[float] | None) -> str:
    """Both bounds of an interval of a difference."""
    return ABSENT if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def number(value: float | None) -> str:
    """A count in full, or an amount with three significant digits below 100: `1,200`, `150.5`, `0.0213`."""
    if value is None:
        return ABSENT
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def money(amount: float) -> str:
    """An amount in whole cents, or with two significant digits below a cent's tenfold: `1,200.50`, `0.42`, `0.0042`."""
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def tenths(value: float | None) -> str:
    """A mean of counts, with one decimal."""
    return ABSENT if value is None else f"{value:,.1f}"


def rounded(value: float) -> str:
    """A large count with two or three digits and a unit."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.1f}{unit}" if scaled < 10 else f"{scaled:.0f}{unit}"
    return number(value)


def duration(seconds: float | None) -> str:
    """A duration as the commands write it."""
    return ABSENT if seconds is None else durations.duration(seconds)


def p_value(value: float | None) -> str:
    """A p-value: three decimals, or its order of magnitude."""
    if value is None:
        return ABSENT
    if value == 0.0:  # below the smallest double
        return "< 1e-300"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def p_text(value: float) -> str:
    """A p-value as `p = ...`."""
    shown = p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def one_line(text: str) -> str:
    """A text on one line, without unprintable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def short(text: str, limit: int) -> str:
    """A text on one line, without unprintable characters, cut to `limit` characters."""
    line = one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clipped(text: str, limit: int) -> str:
    """A text with its line breaks, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 seed`, `3 seeds`, `2 indices`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
