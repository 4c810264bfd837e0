"""What `/v1/models` says of each student."""

from __future__ import annotations

from typing import Any

from pipelines.config_serving import ServingConfig
from serving.cards import StudentCard
from serving.engines.choice import engine_name
from serving.roster import Roster


def describe(card: StudentCard, roster: Roster, serving: ServingConfig, engine: str | None) -> dict[str, Any]:
    """A model of OpenAI's list, with what the student was made from.

    Args:
        engine: the one that was seen to answer; None: the one that the settings name, which may be replaced where it cannot run.
    """
    task = roster.tasks[card.id]
    version = {} if card.version is None else {"share_percent": roster.shares(card.name)[card.version]}
    return {
        "id": card.id,
        "object": "model",
        "created": card.created_s,
        "owned_by": "raystill",
        **version,
        "task": card.task.name,
        "fields": [
            {"name": name, "required": name in task.required, "list": name in task.lists}
            for name in (*task.required, *task.optional)
        ],
        "method": card.method,
        "rationale": card.has_rationale,
        "family": card.family,
        "parameters": card.parameters,
        "max_input_tokens": card.max_input_tokens,
        "engine": engine or engine_name(card.family, serving),
        "weights": serving.weights,
        "fingerprint": card.fingerprint,
        "provenance": dict(card.provenance),
    }
