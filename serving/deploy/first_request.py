"""A first request to an endpoint, to be pasted into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from pipelines.config.serving import ServingConfig
from pipelines.tasks.registry import load_task
from serving.engines.select import engine_name
from serving.model_card import read_card

_MAX_CHARACTERS = 300
"""Of a text: the examples of a run file may be long."""
_START = {"vllm": "half a minute"}
"""Of a replica on two cores, by engine (docs/benchmarks.md)."""
_START_OF_OTHERS = "10 s"


@dataclass(frozen=True)
class FirstRequest:
    """A request to `/v1/predict` that the first student can answer."""

    body: Mapping[str, JsonValue]
    starts: str | None
    """How long the replica takes that it starts; None: one runs already."""
    needs_key: bool

    def lines(self, url: str) -> Sequence[str]:
        """The command for a shell, and what to expect."""
        key = ["KEY=...  # a key: `raystill key` prints it once"] if self.needs_key else []
        header = ' -H "Authorization: Bearer $KEY"' if self.needs_key else ""
        body = shlex.quote(json.dumps(self.body, ensure_ascii=False))
        command = f"curl -s {url}/v1/predict{header} -H 'Content-Type: application/json' -d {body}"
        starts = [] if self.starts is None else [
            f"serving.replicas.min is 0: the first request starts a replica, which takes about {self.starts}"
        ]  # fmt: skip
        return [*key, command, *starts]


def first_request(students: Mapping[str, str], serving: ServingConfig) -> FirstRequest:
    """A request with a sample of the first student's task.

    Args:
        students: NAME or NAME@VERSION -> folder or URI.

    Raises:
        UserError: the student cannot be served.
    """
    student_id, folder = next(iter(students.items()))
    card = read_card(student_id, folder, task_code=serving.task_code)
    sample: dict[str, JsonValue] = {key: _short(value) for key, value in load_task(card.task).sample().items()}
    body: dict[str, JsonValue] = {"inputs": [sample]}
    if card.has_rationale:
        body["rationale"] = True
    if len({name.partition("@")[0] for name in students}) > 1:
        body["model"] = card.name
    start = _START.get(engine_name(card.family, serving), _START_OF_OTHERS)
    keys = serving.keys
    return FirstRequest(body, start if serving.replicas.min == 0 else None, bool(keys.file or keys.variable))


def _short(value: object) -> JsonValue:
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return str(value)[:_MAX_CHARACTERS]
