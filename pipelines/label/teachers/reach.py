"""Whether the endpoint of a remote teacher takes connections. Costs no request."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pipelines.config import TeacherConfig
from pipelines.errors import UserError

_TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def check_reachable(config: TeacherConfig) -> None:
    """Refuse an endpoint that takes no connection from this machine within 5 s.

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
