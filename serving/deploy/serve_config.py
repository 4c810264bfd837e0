"""The Serve config of an endpoint, which `serve deploy` and a RayService read and `raystill serve` deploys.

    {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": 8000, "request_timeout_s": 65.0},
     "applications": [
       {"name": "raystill", "route_prefix": "/", "import_path": "serving.app:ingress", "args": {"serving": {...}},
        "deployments": [{"name": "ingress", "user_config": {"students": {"svamp": "runs/svamp/student"},
                                                            "fingerprints": {"svamp": "9f..."}, "split": {}}}]},
       {"name": "raystill-student-svamp", "route_prefix": null, "import_path": "serving.app:student", "args": {...}}]}

Serve restarts an application if its import path or args change. Students and shares are the ingress' user_config, which it takes while it
runs: another split restarts nothing, another student restarts no other. Because of the fingerprints, a student that is trained again in
its folder is a change, and all replicas of an application have the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from pipelines.config.serving import KeysConfig, ServingConfig
from pipelines.errors import UserError
from pipelines.students.decoding.constrained import check_constrained
from serving.api.host_check import is_loopback
from serving.app import LOGGING
from serving.engines.select import engine_name
from serving.model_card import StudentCard, read_card
from serving.registry import Registry, TrafficSplit
from serving.registry_reader import EndpointStudents
from serving.replica_client import SHARED, application_of

APPLICATION, INGRESS = "raystill", "ingress"
"""The application for HTTP, and its deployment."""
PROXY_GRACE_S = 5.0
_INGRESS_SETTINGS = {
    "host", "port", "keys", "tls", "allowed_hosts", "task_code", "cors_origins", "access_log", "log_text", "limits", "ingress_replicas",
}  # fmt: skip
"""Settings that only the ingress reads: students are deployed without them, so that a change restarts no student."""


def endpoint_config(
    students: Mapping[str, str], serving: ServingConfig, split: TrafficSplit | None = None, *, every_node: bool = False
) -> ServeDeploySchema:
    """The config of an endpoint for these students.

    Args:
        students: NAME or NAME@VERSION -> student folder or URI.
        split: NAME -> version -> percent.
        every_node: run a proxy on every node of the cluster, as a Kubernetes service needs it, instead of one on the head.

    Raises:
        UserError: a student cannot be served, the split names an unknown version, or no other machine could reach the proxies,
            or everyone could.
    """
    if every_node and is_loopback(serving.host):
        rule = "each node's proxy would be reachable from its own node only"
        remedy = "Give an address that others reach: --set serving.host=0.0.0.0."
        raise UserError(f"serving.host {serving.host}", rule, remedy)
    keys = serving.keys
    if not (is_loopback(serving.host) or keys.file or keys.variable or keys.none):
        rule = "others reach it, and it has no keys"
        remedy = (
            "Set serving.keys.file, made by `raystill key NAME --file keys`, or serving.keys=none if everyone may ask."
        )
        raise UserError(f"serving.host {serving.host}", rule, remedy)
    cards = [read_card(student_id, folder, task_code=serving.task_code) for student_id, folder in students.items()]
    _check_names(students)
    registry = Registry(cards, split or {})
    for card in cards:
        engine_name(card.family, serving)
        if serving.constrained:
            check_constrained("serving.constrained", card.method, registry.tasks[card.id])
    settings = serving.model_copy(update={"keys": with_absolute_file(serving.keys)})
    user_config = EndpointStudents(
        students={card.id: card.folder for card in registry.cards},
        fingerprints={card.id: card.content for card in registry.cards},
        split={name: dict(shares) for name, shares in registry.split.items()},
    )
    ingress = _application(
        APPLICATION, "ingress", {"serving": settings.model_dump(mode="json")}, route_prefix="/",
        deployments=[{"name": INGRESS, "user_config": user_config.model_dump()}],
    )  # fmt: skip
    return ServeDeploySchema(
        proxy_location="EveryNode" if every_node else "HeadOnly",
        # The ingress answers a slow request with an error of its own. The proxy's limit is for an ingress that does not.
        http_options={
            "host": serving.host,
            "port": serving.port,
            "request_timeout_s": serving.request_timeout_s + PROXY_GRACE_S,
            **tls_options(serving),
        },
        logging_config=LOGGING,
        applications=[ingress, *_student_applications(cards, settings)],
    )


def as_document(config: ServeDeploySchema) -> dict[str, JsonValue]:
    """The config as JSON or YAML has it."""
    document: dict[str, JsonValue] = config.model_dump(mode="json", exclude_unset=True)
    return document


def with_absolute_file(keys: KeysConfig) -> KeysConfig:
    """The same keys, with the absolute path of their file: the ingress runs in a folder of Ray's."""
    file = keys.file if keys.file is None else absolute(keys.file)
    return keys.model_copy(update={"file": file})


def tls_options(serving: ServingConfig) -> dict[str, str]:
    """Serve's options for HTTPS; empty for HTTP."""
    if serving.tls is None:
        return {}
    return {"ssl_certfile": absolute(serving.tls.certificate), "ssl_keyfile": absolute(serving.tls.key)}


def absolute(file: str) -> str:
    """The path from `/` on, with the home folder for `~`."""
    return str(Path(file).expanduser().absolute())


def _student_applications(cards: Sequence[StudentCard], settings: ServingConfig) -> list[ServeApplicationSchema]:
    serving = settings.model_dump(mode="json", exclude=_INGRESS_SETTINGS)
    if settings.students_per_replica is not None:
        folders: dict[str, JsonValue] = {card.id: card.folder for card in cards}
        fingerprints: dict[str, JsonValue] = {card.id: card.content for card in cards}
        args: dict[str, JsonValue] = {"students": folders, "fingerprints": fingerprints, "serving": serving}
        return [_application(SHARED, "shared", args)]
    return [
        _application(
            application_of(card.id), "student",
            {"student": card.id, "folder": card.folder, "fingerprint": card.content, "serving": serving},
        )
        for card in cards
    ]  # fmt: skip


def _application(
    name: str, builder: str, args: Mapping[str, JsonValue], route_prefix: str | None = None, **options: object
) -> ServeApplicationSchema:
    """An application that serving/app.py builds."""
    return ServeApplicationSchema(
        name=name, route_prefix=route_prefix, import_path=f"serving.app:{builder}", args=args, logging_config=LOGGING, **options
    )  # fmt: skip


def _check_names(students: Mapping[str, str]) -> None:
    versioned = {student_id.partition("@")[0] for student_id in students if "@" in student_id}
    if both := versioned.intersection(students):
        name = sorted(both)[0]
        rule = "one student has this name, and others are versions of it"
        raise UserError(f"student {name}", rule, f"Give each a version: {name}@VERSION=FOLDER.")
