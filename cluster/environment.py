"""Every environment variable that Raystill reads. Values that decide results are keys of the run file, never variables.

`pipelines` and `serving` import nothing from here and read some themselves: the key of an OpenAI-compatible teacher, in the variable
that `teacher.remote.key_variable` names (pipelines.label.teachers.openai), keys of the endpoint, in the variable that
`serving.keys.variable` names (serving.api.api_keys), and RAYSTILL_CACHE (pipelines.storage.cache_folder).

Libraries read their own: the clients of teachers and of Kubernetes HTTP_PROXY, HTTPS_PROXY and NO_PROXY; the former also OPENAI_ORG_ID,
OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS; MLflow and Weights & Biases (`training.trackers`) MLFLOW_* and WANDB_*, in the worker that
reports to them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DRIVER_CPUS = "RAYSTILL_DRIVER_CPUS"
"""Set by `raystill submit --driver-cpus`: CPUs that Ray reserves for the job's driver on its node."""
SERVE_EDGE = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.edge:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
}
"""For Ray's processes: Serve's proxy limits what strangers may send. A dead proxy is replaced after three health checks: with Serve's
period of 10 s nobody would answer for half a minute."""
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a job."""
_NO_SERVER = "http://127.0.0.1:9"
"""The port of the discard protocol, on which nothing listens."""


def ray_address() -> str | None:
    """RAY_ADDRESS, the cluster to use. None: the command starts Ray on this machine."""
    return os.environ.get("RAY_ADDRESS") or None


def driver_cpus() -> float:
    """RAYSTILL_DRIVER_CPUS: CPUs that this driver holds on its node. 0 unless it is a job submitted with some."""
    return float(os.environ.get(DRIVER_CPUS) or 0.0)


def is_ray_job() -> bool:
    """True if this process is the driver of a job, whose output is the job's log."""
    return _JOB_CONFIG in os.environ


def kubeconfig_files() -> str:
    """KUBECONFIG, or kubectl's default file if it exists; several files with `:` between them. Empty if no such file exists."""
    named = os.environ.get("KUBECONFIG", "")
    default = Path.home() / ".kube" / "config"
    return named or (str(default) if default.is_file() else "")


def use_ray_token() -> None:
    """Make Ray's clients send the existing token, unless RAY_AUTH_MODE is set. Has no effect once Ray is imported.

    The token is in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Ray requires it from callers of the clusters that it starts
    here, but its clients send it only if RAY_AUTH_MODE says so.
    """
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"


def make_ray_token() -> None:
    """Make clusters that start here require a token, unless RAY_AUTH_MODE says otherwise. Has no effect once Ray is imported.

    Creates ~/.ray/auth_token if there is no token, as `ray.init` does for a local Ray and `ray start` does not.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token").lower() != "token" or _has_token():
        return
    file = _token_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as created:
        created.write(secrets.token_hex(32))


def wants_token() -> bool:
    """True if this process requires Ray's token from its callers. Ray sets RAY_AUTH_MODE in clusters that it starts with a token."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def _has_token() -> bool:
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or _token_file().is_file()


def _token_file() -> Path:
    """Ray's default, if no variable names a token."""
    return Path.home() / ".ray" / "auth_token"


@contextmanager
def own_ray() -> Iterator[None]:
    """Variables of a Ray that starts inside the block. It uses no API server of this machine, and has none of its own.

    Ray Train asks an API server whether its controller lives, by default the one at port 8265. If that belongs to another Ray, it knows
    no such actor, and the workers are ended during training.
    """
    with _changed(RAY_API_SERVER_ADDRESS=_NO_SERVER, **SERVE_EDGE):
        yield


@contextmanager
def only_given_address() -> Iterator[None]:
    """Make Ray's job and state clients created inside the block use the address that they are given.

    RAY_API_SERVER_ADDRESS and RAY_ADDRESS would override it. Shells after `raystill up` and KubeRay's pods have them set: without this,
    a job of another cluster than `--address` would be stopped.
    """
    with _changed(RAY_API_SERVER_ADDRESS=None, RAY_ADDRESS=None):
        yield


@contextmanager
def _changed(**variables: str | None) -> Iterator[None]:
    """Variables of this process inside the block; None unsets one."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
