"""The commit behind a hub id, so that labels name the weights that made them."""

from __future__ import annotations

from pathlib import Path

_TIMEOUT_S = 10.0


def resolved_revision(model: str, revision: str | None) -> str | None:
    """The commit of a hub id: from the local cache, else from the hub. None for a folder, or if neither knows it."""
    if Path(model).expanduser().exists() or model.count("/") != 1:
        return None
    from huggingface_hub import HfApi, constants

    name = revision or "main"
    cached = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    if (cached / "snapshots" / name).is_dir():
        return name
    try:
        return (cached / "refs" / name).read_text(encoding="utf-8").strip()
    except OSError:
        if constants.HF_HUB_OFFLINE:
            return None
    try:
        return HfApi().model_info(model, revision=name, timeout=_TIMEOUT_S).sha
    except Exception:  # noqa: BLE001 - the engine's start reports a wrong name or a hub out of reach
        return None
