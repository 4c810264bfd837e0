"""Go's time.ParseDuration, which KubeRay reads durations with."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_S = 2**63 * 1e-9
"""Go counts nanoseconds in an int64."""
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_PARTS = re.compile(rf"(?:{_PART.pattern})+")


def duration_s(text: str) -> float | None:
    """Seconds of a Go duration, None where it is none.

    >>> duration_s("1h30m")
    5400.0
    """
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0.0
    if not _PARTS.fullmatch(body):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(body))
    return sign * seconds if seconds < _MAX_S else None
