"""Whether this machine can get a model of the hub."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.errors import UserError


def check_available(model: str, key: str) -> None:
    """Refuse a hub id that is not in the cache if downloads are off (HF_HUB_OFFLINE).

    On a cluster (RAY_ADDRESS) nothing is checked: its nodes have caches of their own.

    Args:
        key: run file key, for messages.
    """
    if not model or Path(model).expanduser().exists() or os.environ.get("RAY_ADDRESS"):
        return
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not constants.HF_HUB_OFFLINE:
        return
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError as error:
        rule = f"neither a folder nor a hub id ({' '.join(str(error).split())[:200]})"
        raise UserError(f"{key} {model}", rule, "Give a model folder, or an id such as OWNER/NAME.") from error
    if not isinstance(cached, str):
        rule = "it is not in the hub's cache, and HF_HUB_OFFLINE forbids downloads"
        raise UserError(f"{key} {model}", rule, "Unset HF_HUB_OFFLINE, or give a model folder.")
