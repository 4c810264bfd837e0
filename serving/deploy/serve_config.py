"""The Serve config file of an endpoint: what `serve deploy` and a RayService take, and what `raystill serve` itself deploys.

    {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": 8000, "request_timeout_s": 65.0},
     "applications": [
       {"name": "raystill", "route_prefix": "/", "import_path": "serving.app:ingress", "args": {"serving": {...}},
        "deployments": [{"name": "ingress", "user_config": {"students": {"svamp": "runs/svamp/student"},
                                                            "fingerprints": {"svamp": "9f..."}, "split": {}}}]},
       {"name": "raystill-student-svamp", "route_prefix": null, "import_path": "serving.app:student", "args": {...}}]}

Serve restarts an application when its import path or args change. Students and shares are the ingress' user_config, which it takes
while it runs: another split restarts nothing, another student nobody else. Fingerprints are there so that a student that was trained
anew in its folder is a change, and replicas of one application never have different weights.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.config.serving import KeysConfig, ServingConfig
from pipelines.errors import UserError
from serving.app import LOGGING
from serving.engines.select import engine_name
from serving.ingress import SHARED, application_of
from serving.model_card import StudentCard, read_card
from serving.registry import Registry, TrafficSplit

APPLICATION, INGRESS = "raystill", "ingress"
"""The application that speaks HTTP, and its deployment."""
PROXY_GRACE_S = 5.0
_FOR_REQUESTS = (
    "host", "port", "keys", "task_code", "cors_origins", "access_log", "log_text", "limits", "ingress_replicas",
)  # fmt: skip


def endpoint_config(
    students: Mapping[str, str], serving: ServingConfig, split: TrafficSplit | None = None, *, every_node: bool = False
) -> dict[str, Any]:
    """The config of an endpoint for these students.

    Args:
        students: NAME or NAME@VERSION -> student folder or URI.
        split: NAME -> version -> percent.
        every_node: a proxy on every node of the cluster, as behind a Kubernetes service, in place of one on the head.

    Raises:
        UserError: a student cannot be served, the split names what is not there, or nobody could reach the proxies.
    """
    if every_node and _is_loopback(serving.host):
        rule = "the proxy on each node would answer that node alone"
        raise UserError(
            f"serving.host {serving.host}", rule, "Name an address that others reach: --set serving.host=0.0.0.0."
        )
    cards = [read_card(student_id, folder, task_code=serving.task_code) for student_id, folder in students.items()]
    _check_names(students)
    roster = Registry(cards, split or {})
    for card in cards:
        engine_name(card.family, serving)
    settings = serving.model_dump(mode="json")
    settings["keys"] = found_anywhere(serving.keys).model_dump(mode="json")
    asked: dict[str, Any] = {
        "students": {card.id: card.folder for card in roster.cards},
        "fingerprints": {card.id: card.fingerprint for card in roster.cards},
        "split": {name: dict(shares) for name, shares in roster.split.items()},
    }
    applications = [
        {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": "serving.app:ingress",
            "args": {"serving": settings},
            "deployments": [{"name": INGRESS, "user_config": asked}],
        },
        *_students(cards, settings, together=serving.students_per_replica is not None),
    ]
    return {
        "proxy_location": "EveryNode" if every_node else "HeadOnly",
        # The ingress answers a slow request with an error of ours; the proxy's own limit is for an ingress that does not.
        "http_options": {
            "host": serving.host,
            "port": serving.port,
            "request_timeout_s": serving.request_timeout_s + PROXY_GRACE_S,
        },
        "logging_config": LOGGING,
        "applications": [{**application, "logging_config": LOGGING} for application in applications],
    }


def found_anywhere(keys: KeysConfig) -> KeysConfig:
    """The same keys, with their file by its whole path: the ingress runs in a folder of Ray's."""
    file = keys.file if keys.file is None else str(Path(keys.file).expanduser().absolute())
    return keys.model_copy(update={"file": file})


def _is_loopback(host: str) -> bool:
    """Whether an address is that of the machine to itself."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _students(cards: Sequence[StudentCard], settings: dict[str, Any], *, together: bool) -> list[dict[str, Any]]:
    # What only the ingress reads is left out: a change of it restarts no student.
    serving = {key: value for key, value in settings.items() if key not in _FOR_REQUESTS}
    if together:
        args: dict[str, Any] = {
            "students": {card.id: card.folder for card in cards},
            "fingerprints": {card.id: card.fingerprint for card in cards},
            "serving": serving,
        }
        return [{"name": SHARED, "route_prefix": None, "import_path": "serving.app:shared", "args": args}]
    return [
        {
            "name": application_of(card.id),
            "route_prefix": None,
            "import_path": "serving.app:student",
            "args": {
                "student": card.id,
                "folder": card.folder,
                "fingerprint": card.fingerprint,
                "serving": serving,
            },
        }
        for card in cards
    ]


def _check_names(students: Mapping[str, str]) -> None:
    versioned = {student_id.partition("@")[0] for student_id in students if "@" in student_id}
    if both := versioned.intersection(students):
        name = sorted(both)[0]
        rule = "it is the name of a student and of one with versions"
        raise UserError(f"student {name}", rule, f"Give each a version: {name}@VERSION=FOLDER.")
