"""Numbers in texts: Kubernetes' quantities (`24Gi`, `500m`, `1e3`, or a bare number) and integers."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?", re.ASCII)
_MOST_DIGITS = 1000
"""Of a number, and as its exponent: more say no more, and Decimal has an end."""
_LARGEST = Decimal(10) ** _MOST_DIGITS
_INTEGER = re.compile(r"([+-]?)0*([0-9]{1,19})")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {name: Decimal(2) ** (10 * power) for power, name in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], start=1)}


def quantity(value: Any) -> Decimal | None:
    """The number a quantity stands for, None where it is none.

    >>> quantity("1.5Gi")
    Decimal('1610612736.0')
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        return None
    number, suffix = max(-_LARGEST, min(Decimal(match[1]), _LARGEST)), str(match[2] or "")
    if not suffix:
        return number
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    power = _DECIMAL[suffix] if suffix in _DECIMAL else integer(suffix[1:])
    return None if power is None else number * Decimal(10) ** max(-_MOST_DIGITS, min(power, _MOST_DIGITS))


def integer(text: str) -> int | None:
    """The number that some digits with or without a sign stand for, None where there are others, or more than an int64 holds.

    >>> integer("-007")
    -7
    """
    match = _INTEGER.fullmatch(text)
    number = int(match[1] + match[2]) if match else 2**63
    return number if -(2**63) <= number < 2**63 else None
