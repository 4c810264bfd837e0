"""Every environment variable that we read. Values that decide results are keys of the run file, never variables.

Two are read elsewhere, since `pipelines` and `serving` import nothing from here. The key of an OpenAI-compatible teacher is read in
the variable that `teacher.remote.key_variable` names (OPENAI_API_KEY unless the run file says otherwise), by
pipelines.label.teachers.openai.remote_key; keys of the endpoint, in the one that `serving.keys.variable` names, by serving.keys.
The client of that teacher reads HTTP_PROXY, HTTPS_PROXY, NO_PROXY, OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS
itself. MLflow and Weights & Biases (`training.trackers`) read their own variables, MLFLOW_* and WANDB_*, in the worker that tells them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def use_ray_token() -> None:
    """Let Ray's clients send the token that there is (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token), unless RAY_AUTH_MODE is set.

    Ray asks for that token in every cluster that it starts here, but sends it from clients only where it is told to. Has no effect once
    Ray is imported.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def wants_token() -> bool:
    """Whether Ray's token is asked of whoever calls this process (RAY_AUTH_MODE, which Ray sets where it starts a cluster with one)."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


@contextmanager
def no_api_server() -> Iterator[None]:
    """A Ray that is started while the block runs asks no API server of the machine (RAY_API_SERVER_ADDRESS): it has none of its own.

    Ray Train asks one whether its controller lives. A Ray without one takes it to be at port 8265; where another Ray of the machine listens
    there, which knows no such actor, the workers are taken away in the middle of a training.
    """
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = _NOBODY
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        if before is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = before
