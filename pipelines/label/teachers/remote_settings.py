"""Settings of remote teachers: the key, and what is checked before anything is sent."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.errors import UserError

_MAX_CONNECTIONS = 1000
"""Size of the client's pool. Further requests would wait in it while their timeout runs."""


def remote_key(config: TeacherConfig) -> SecretStr:
    """The key in the environment variable `remote.key_variable`. Raises UserError if it is not set or cannot be a key."""
    name = config.remote.key_variable
    key = os.environ.get(name, "").strip()
    where = f"teacher.remote.key_variable {name}"
    if not key:
        remedy = f"Export {name}. Any word will do for an endpoint without keys."
        raise UserError(where, "this environment variable is not set", remedy)
    if not key.isascii() or not key.isprintable() or " " in key:
        rule = "its value cannot be a key: keys are printable ASCII without spaces"
        raise UserError(where, rule, "Set it to the key alone.")
    return SecretStr(key)


def _has_valid_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def check_remote(config: TeacherConfig) -> None:
    """Check URL, connections and budget before anything is sent. Raises UserError. A plan needs no key: `remote_key` checks it."""
    url = config.remote.url or ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not _has_valid_port(url):
        remedy = "Give the base URL, such as https://host/v1."
        raise UserError(f"teacher.remote.url {url}", "not an http or https URL", remedy)
    if parts.username or parts.password:
        rule = "a URL with a user or password would end in logs and manifests"
        raise UserError("teacher.remote.url", rule, "Put the key into the variable that remote.key_variable names.")
    requests = config.remote.max_concurrent_requests
    if requests > _MAX_CONNECTIONS:
        rule = f"the client holds {_MAX_CONNECTIONS} connections"
        raise UserError(
            f"teacher.remote.max_concurrent_requests {requests}", rule, "Lower it, or raise teacher.replicas."
        )
    budgeted = config.budget.tokens is not None or config.budget.money is not None
    if budgeted and config.replicas.max > 1:
        rule = f"each replica counts for itself, {config.replicas.max} of them could use several times teacher.budget"
        raise UserError("teacher.replicas.max", rule, "Set it to 1; remote.max_concurrent_requests decides the load.")
