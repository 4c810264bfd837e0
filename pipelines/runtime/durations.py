"""Durations as people write and read them, for every command, log line and page."""

from __future__ import annotations

import re

_UNITS_S = {"d": 86_400.0, "h": 3600.0, "min": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|s)\s*")


def duration(seconds: float) -> str:
    """Two units at most: `45.5 ms`, `9.1 s`, `42 s`, `3 min 20 s`, `5 h 07 min`, `3 d 4 h`."""
    if 0 < seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def duration_s(text: str) -> float:
    """Seconds of `90min`, `24h`, `1d 12h`. Raises ValueError for anything else, and for zero."""
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    if _PART.sub("", text) or seconds <= 0:
        raise ValueError("must be a duration above zero")
    return seconds
