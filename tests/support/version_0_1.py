"""Comparing what this version writes with what 0.1 wrote."""

from typing import Any

import pytest


def known_to_0_1(found: Any, written: Any) -> Any:
    """`found` without the keys that 0.1 did not write. Numbers that differ by rounding become those of 0.1."""
    if isinstance(written, dict) and isinstance(found, dict):
        return {key: known_to_0_1(found[key], value) for key, value in written.items() if key in found}
    if isinstance(written, list) and isinstance(found, list) and len(found) == len(written):
        return [known_to_0_1(*pair) for pair in zip(found, written, strict=True)]
    if isinstance(written, float) and found == pytest.approx(written, rel=1e-3):
        return written
    return found
