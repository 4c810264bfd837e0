"""Kubernetes quantities: `24Gi`, `500m`, or a bare number."""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGTPE]i|[mkMGTPE]?)")
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)}
_FACTORS |= {f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)}


def quantity(text: str | int) -> Decimal:
    """The number of a quantity.

    >>> quantity("1.5Gi")
    Decimal('1610612736.0')

    Raises:
        ValueError: the text is no quantity, or has a sign or an exponent, which our manifests do not use.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity. Write it as 24Gi or 500m.")
    return Decimal(match[1]) * _FACTORS[match[2]]


def canonical(text: str | int) -> str:
    """The quantity as Go's resource.Quantity writes it: the largest suffix of its family that leaves a whole number.

    >>> canonical("1024Gi"), canonical("0.5"), canonical("2000m"), canonical(1)
    ('1Ti', '500m', '2', '1')
    """
    number, suffix = quantity(text), re.sub(r"[0-9.]", "", str(text))
    if number == 0:
        return "0"
    if suffix.endswith("i") and number >= 1024:
        scales = [(f"{unit}i", Decimal(1024) ** power) for power, unit in reversed(list(enumerate("KMGTPE", start=1)))]
    else:
        scales = [(unit, Decimal(1000) ** power) for power, unit in reversed(list(enumerate("kMGTPE", start=1)))]
    scales += [("", Decimal(1)), ("m", Decimal("0.001"))]
    return next(f"{number / factor:f}".split(".")[0] + unit for unit, factor in scales if number % factor == 0)
