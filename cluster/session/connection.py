"""Reach a Ray that runs elsewhere. Every call of Ray's clients stands inside `ray_errors`, which turns failures into one UserError."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.environment import only_given_address
from pipelines.errors import UserError, last_line

if TYPE_CHECKING:
    from ray.util.state.common import NodeState

REACH_DASHBOARD = (
    "Give the address of the head's dashboard: http://HEAD:8265 (kubectl port-forward service/...-head-svc 8265)."
)
REACH_HEAD = "Set RAY_ADDRESS to the address of a head (HEAD:6379), or unset it to start Ray on this machine."
_CONNECT_S = 10.0
_RETRY_S = 0.5
_MAX_NODES = 10_000
"""Ray's own limit. Its default lists only 100."""
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


class UnreachableError(UserError):
    """The cluster does not answer, or its head reports trouble of its own. A later attempt may succeed."""


def dashboard_url(address: str) -> str:
    """The address with a scheme. Without one Ray takes it for the address of a head and waits for it.

    >>> dashboard_url("head:8265")
    'http://head:8265'
    """
    return address if "://" in address else f"http://{address}"


def alive_nodes(address: str) -> list[NodeState]:
    """The live nodes of the cluster whose dashboard has this URL. Raises UnreachableError."""
    from ray.util.state import list_nodes

    with ray_errors(f"cluster {address}", REACH_DASHBOARD), only_given_address():
        return list(list_nodes(address, filters=[("state", "=", "ALIVE")], limit=_MAX_NODES))


def wait_for_head(address: str) -> None:
    """Wait some seconds until something listens at a head's HOST:PORT. Other forms of address are Ray's to check.

    Raises:
        ConnectionError: nothing listens. Ray itself would try silently for more than five minutes.
    """
    from ray.util import get_node_ip_address

    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    if host in ("localhost", "127.0.0.1"):  # Ray replaces them too
        host = get_node_ip_address()
    host = host.strip("[]")
    until = time.monotonic() + _CONNECT_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise ConnectionError(f"nothing listens at {address}") from error
            time.sleep(_RETRY_S)


def version_mismatch(place: str, there: str, here: str) -> UserError:
    """The error for a cluster of another version. `there`, `here`: such as `Ray 2.59.0 with Python 3.11.7`."""
    rule = f"it runs {there}, and this is Raystill on {here}"
    return UserError(place, rule, "Install the cluster's version here, or this version there.")


@contextmanager
def ray_errors(place: str, reach: str) -> Iterator[None]:
    """Turn what Ray's clients raise into one error with a remedy.

    Args:
        place: what is called, such as `cluster http://head:8265`.
        reach: the remedy if nothing answers there.

    Raises:
        UnreachableError: nothing answers, or the answer is no success.
        UserError: the token is missing or wrong, or the version differs.
    """
    import requests
    from ray.exceptions import AuthenticationError, RayError, RpcError
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    try:
        yield
    except AuthenticationError as error:
        raise _token_error(place) from error
    except requests.exceptions.HTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise _token_error(place) from error
        raise _server_error(place, error) from error
    except (ConnectionError, TimeoutError, requests.exceptions.RequestException, RpcError, ServerUnavailable) as error:
        raise UnreachableError(place, "no Ray answers there", reach) from error
    except (RayError, RayStateApiException, RuntimeError) as error:
        versions = [f"Ray {ray} with Python {python}" for ray, python in _VERSIONS.findall(str(error))]
        if len(versions) == 2:
            there, here = versions
            raise version_mismatch(place, there, here) from error
        raise _server_error(place, error) from error


def _server_error(place: str, error: Exception) -> UnreachableError:
    return UnreachableError(place, f"it answers {last_line(error)}", "Look at the head node's dashboard log.")


def _token_error(place: str) -> UserError:
    rule = "it needs a token, and none or a wrong one was sent"
    return UserError(place, rule, "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.")
