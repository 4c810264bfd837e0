"""Every environment variable that we read. Values that decide results are keys of the run file, never variables.

Two are read elsewhere, since `pipelines` and `serving` import nothing from here. The key of an OpenAI-compatible teacher is read in
the variable that `teacher.remote.key_variable` names (OPENAI_API_KEY unless the run file says otherwise), by
pipelines.label.teachers.openai.remote_key; keys of the endpoint, in the one that `serving.keys.variable` names, by serving.api.api_keys.
The client of that teacher reads HTTP_PROXY, HTTPS_PROXY, NO_PROXY, OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS
itself. MLflow and Weights & Biases (`training.trackers`) read their own variables, MLFLOW_* and WANDB_*, in the worker that tells them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DRIVER_CPUS = "RAYSTILL_DRIVER_CPUS"
"""Set by `raystill submit --driver-cpus`: the CPUs that Ray keeps for the process that reads it, on its node."""
_NOBODY = "http://127.0.0.1:9"
"""The port of `discard`, on which nothing has listened for decades."""


def cache_folder() -> Path:
    """RAYSTILL_CACHE, or `raystill` in the user's cache folder: where the embedded teacher is kept."""
    named = os.environ.get("RAYSTILL_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raystill"


def ray_address() -> str | None:
    """RAY_ADDRESS: the cluster to use. None: Ray is started in this process, for this process."""
    return os.environ.get("RAY_ADDRESS") or None


def driver_cpus() -> float:
    """RAYSTILL_DRIVER_CPUS: what this process, the driver of a job, takes of its node. 0 where it was not submitted with any."""
    return float(os.environ.get(DRIVER_CPUS) or 0.0)


def use_ray_token() -> None:
    """Let Ray's clients send the token that there is (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token), unless RAY_AUTH_MODE is set.

    Ray asks for that token in every cluster that it starts here, but sends it from clients only where it is told to. Has no effect once
    Ray is imported.
    """
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"


def make_ray_token() -> None:
    """Let Ray ask for a token in what is started here, unless RAY_AUTH_MODE says otherwise: one is made in ~/.ray/auth_token where there is
    none, as `ray.init` does for a Ray of its own and `ray start` does not. Has no effect once Ray is imported.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token").lower() != "token" or _has_token():
        return
    file = _token_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as made:
        made.write(secrets.token_hex(32))


def wants_token() -> bool:
    """Whether Ray's token is asked of whoever calls this process (RAY_AUTH_MODE, which Ray sets where it starts a cluster with one)."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def _has_token() -> bool:
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or _token_file().is_file()


def _token_file() -> Path:
    """Where Ray looks for a token that no variable names."""
    return Path.home() / ".ray" / "auth_token"


@contextmanager
def no_api_server() -> Iterator[None]:
    """A Ray that is started while the block runs asks no API server of the machine (RAY_API_SERVER_ADDRESS): it has none of its own.

    Ray Train asks one whether its controller lives. A Ray without one takes it to be at port 8265; where another Ray of the machine listens
    there, which knows no such actor, the workers are taken away in the middle of a training.
    """
    with _changed(RAY_API_SERVER_ADDRESS=_NOBODY):
        yield


@contextmanager
def only_given_address() -> Iterator[None]:
    """Clients of Ray's jobs and states that are made while the block runs ask the address that they are given.

    Ray lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS take its place, which shells that use `raystill up` and KubeRay's pods have set: a job
    would be stopped on another cluster than the one that `--address` names.
    """
    with _changed(RAY_API_SERVER_ADDRESS=None, RAY_ADDRESS=None):
        yield


@contextmanager
def _changed(**variables: str | None) -> Iterator[None]:
    """Variables of this process while the block runs; None: they are not there."""
    before = {name: os.environ.get(name) for name in variables}
    _put(variables)
    try:
        yield
    finally:
        _put(before)


def _put(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
