"""How a Ray that runs somewhere is reached: the address of its dashboard, and what is said where it does not answer as it should.

Whoever asks Ray's clients (jobs, states) or connects to a cluster does it inside `ray_errors`.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.environment import only_given_address
from pipelines.errors import UserError, last_line

REACH_DASHBOARD = (
    "Give the address of the head's dashboard: http://HEAD:8265 (kubectl port-forward service/...-head-svc 8265)."
)
REACH_HEAD = "Set RAY_ADDRESS to the address of a cluster's head (HEAD:6379), or unset it: a Ray is started here then."
_REACH_S = 10.0
_AGAIN_S = 0.5
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


class NoAnswerError(UserError):
    """A cluster that cannot be asked now, and perhaps later: it is out of reach, or its head has trouble of its own."""


def dashboard_url(address: str) -> str:
    """The address with its scheme, which is http unless it is named: without one Ray takes it for that of a head's GCS, and waits for it.

    >>> dashboard_url("head:8265")
    'http://head:8265'
    """
    return address if "://" in address else f"http://{address}"


_MOST_NODES = 10_000
"""That Ray lists; unasked it leaves out all but 100."""


def alive_nodes(address: str) -> list[Any]:
    """The nodes that are alive (ray.util.state.common.NodeState), of the cluster whose dashboard is at that URL. Raises NoAnswerError."""
    from ray.util.state import list_nodes

    with ray_errors(f"cluster {address}", REACH_DASHBOARD), only_given_address():
        return list(list_nodes(address, filters=[("state", "=", "ALIVE")], limit=_MOST_NODES))


def reach_head(address: str) -> None:
    """Wait for some seconds until something listens at a head's address, HOST:PORT. Other forms are left to Ray.

    Raises:
        ConnectionError: nothing does. Ray itself would try for more than five minutes, without a word.
    """
    from ray.util import get_node_ip_address

    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    if host in ("localhost", "127.0.0.1"):  # as Ray reads it
        host = get_node_ip_address()
    host = host.strip("[]")
    until = time.monotonic() + _REACH_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_REACH_S).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise ConnectionError(f"nothing listens at {address}") from error
            time.sleep(_AGAIN_S)


def other_version(place: str, there: str, here: str) -> UserError:
    """The error for a cluster of another version. `there`, `here`: such as `Ray 2.59.0 with Python 3.11.7`."""
    rule = f"it runs {there}, and this is Raystill on {here}"
    return UserError(place, rule, "Install the cluster's version here, or this one there.")


@contextmanager
def ray_errors(place: str, reach: str) -> Iterator[None]:
    """Turns what Ray raises where it is asked into one error that says what to do.

    Args:
        place: what is asked, such as `cluster http://head:8265`.
        reach: what to do where nothing answers there.

    Raises:
        NoAnswerError: nothing answers, or not with what was asked for.
        UserError: a token is missing, or the version is another one.
    """
    import requests
    from ray.exceptions import AuthenticationError, RayError, RpcError
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    try:
        yield
    except AuthenticationError as error:
        raise _no_token(place) from error
    except requests.exceptions.HTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise _no_token(place) from error
        raise _strange(place, error) from error
    except (ConnectionError, TimeoutError, requests.exceptions.RequestException, RpcError, ServerUnavailable) as error:
        raise NoAnswerError(place, "no Ray answers there", reach) from error
    except (RayError, RayStateApiException, RuntimeError) as error:
        versions = [f"Ray {ray} with Python {python}" for ray, python in _VERSIONS.findall(str(error))]
        if len(versions) == len(("there", "here")):
            raise other_version(place, *versions) from error
        raise _strange(place, error) from error


def _strange(place: str, error: Exception) -> NoAnswerError:
    return NoAnswerError(place, f"it answers {last_line(error)}", "Look at the head node's dashboard log.")


def _no_token(place: str) -> UserError:
    rule = "it asks for a token, and none or another one was sent"
    return UserError(place, rule, "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.")
