"""Whether the endpoint of a remote teacher takes connections and its key. Costs nothing: no prompt is sent."""

from __future__ import annotations

import os
import socket
from http import HTTPStatus
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, getproxies, proxy_bypass, urlopen

from pipelines.config import TeacherConfig
from pipelines.errors import UserError

_TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def check_reachable(config: TeacherConfig) -> None:
    """Refuse an endpoint that takes no connection from this machine within 5 s, or answers a request for its models with 401.

    A proxy may reach what this machine cannot, and so may the nodes of a cluster behind ray://: then nothing is checked.
    """
    parts = urlsplit(config.remote.url or "")
    host = parts.hostname or ""
    behind_proxy = parts.scheme in getproxies() and not proxy_bypass(host)
    if behind_proxy or os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        return
    try:
        socket.create_connection((host, parts.port or _PORTS.get(parts.scheme, 443)), _TIMEOUT_S).close()
    except OSError as error:
        rule = f"the endpoint takes no connection ({error.strerror or error})"
        raise UserError(f"teacher.remote.url {config.remote.url}", rule, "Start it, or correct the URL.") from error
    _check_key(config)


def _check_key(config: TeacherConfig) -> None:
    """Many endpoints list their models at once, and refuse a wrong key as they would later. Any other answer says nothing."""
    name, url = config.remote.key_variable, (config.remote.url or "").rstrip("/")
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable() or not key:
        return  # remote_key reports it
    request = Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
    try:
        urlopen(request, timeout=_TIMEOUT_S).close()
    except HTTPError as error:
        if error.code == HTTPStatus.UNAUTHORIZED:
            rule = f"{url} refuses its key (HTTP 401)"
            raise UserError(f"teacher.remote.key_variable {name}", rule, f"Export the right {name}.") from None
    except (OSError, HTTPException, ValueError):
        return
