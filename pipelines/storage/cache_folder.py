"""Where this user's commands keep what they can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """RAYSTILL_CACHE, or `raystill` in the user's cache folder."""
    named = os.environ.get("RAYSTILL_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raystill"


def embedded_model_folder() -> Path:
    """Where the embedded teacher is kept: what `model: embedded` of a run file names."""
    return cache_folder() / "SmolLM2-135M-Instruct"
