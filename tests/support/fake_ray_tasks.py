"""A stand-in for Ray that runs tasks of cells."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipelines.storage.manifest import Manifest

NODE = "ab" * 28


def task_error(cause: Exception) -> ray.exceptions.RayTaskError:
    """What ray.get raises for an exception in a task."""
    trace = f'Traceback ...\n  File "x.py"\n{type(cause).__name__}: {cause}\n'
    return ray.exceptions.RayTaskError("score_cell", trace, cause, ip="10.0.0.1")


class FakeRay:
    """A cluster of one node whose tasks end as `outcomes` say, by the seed of the cell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: dict[int, Manifest | Exception] = {}
        self.options: dict[str, Any] = {}
        self.started: list[int] = []
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: NODE))
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False}])
        monkeypatch.setattr(ray, "wait", lambda references, timeout: (references[:1], references[1:]))
        monkeypatch.setattr(ray, "remote", self.remote)
        monkeypatch.setattr(ray, "get", self.get)

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=self.start)

    def start(self, run: Any, labels_at: str, split: str, trained_on: str | None, tokens_at: str | None) -> int:
        self.started.append(run.training.seed)
        return int(run.training.seed)

    def get(self, seed: int) -> Manifest:
        outcome = self.outcomes[seed]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
