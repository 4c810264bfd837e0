"""The protocol of a tracker: a TensorBoard writer, Prometheus metrics, or a tracking service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Receives the values of steps."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""

    def sync(self) -> None:
        """Write out what is buffered. Called at each checkpoint, so that a killed worker loses only what came after it."""

    def close(self, finished: bool) -> None:
        """Write out what is buffered, and end. `finished`: the training completed."""
