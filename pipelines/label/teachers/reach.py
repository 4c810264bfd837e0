"""Whether the endpoint of a remote teacher takes connections and its key. Costs nothing: no prompt is sent."""

from __future__ import annotations

import os
from http import HTTPStatus

import httpx

from pipelines.config import TeacherConfig
from pipelines.errors import UserError

_TIMEOUT_S = 5.0


def check_reachable(config: TeacherConfig) -> None:
    """Refuse an endpoint that takes no connection within 5 s, or answers a request for its models with 401.

    Many endpoints list their models at once, and refuse a wrong key as they would later. Any other answer says nothing. Connects as the
    run will, by the same proxies. The nodes of a cluster behind ray:// may reach what this machine cannot: then nothing is checked.
    """
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        return
    name, url = config.remote.key_variable, (config.remote.url or "").rstrip("/")
    key = os.environ.get(name, "").strip()
    is_key = key.isascii() and key.isprintable() and bool(key)  # remote_key reports any other
    headers = {"Authorization": f"Bearer {key}"} if is_key else {}
    try:
        with httpx.stream("GET", f"{url}/models", headers=headers, timeout=_TIMEOUT_S) as response:
            refused = is_key and response.status_code == HTTPStatus.UNAUTHORIZED
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        rule = f"the endpoint takes no connection ({error})"
        raise UserError(f"teacher.remote.url {config.remote.url}", rule, "Start it, or correct the URL.") from error
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError):
        return  # a bad proxy too: the engine's start reports it
    if refused:
        rule = f"{url} refuses its key (HTTP 401)"
        raise UserError(f"teacher.remote.key_variable {name}", rule, f"Export the right {name}.")
