"""Files of a model that are on this machine. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cluster.planning.estimate import CHARACTERS_PER_TOKEN, ConfigJson
from pipelines.errors import UserError


def _model_file(model: str | None, name: str) -> Path | None:
    """A file of a model that is on this machine: in its folder, or in the hub's cache. Downloads nothing."""
    if not model:
        return None
    if Path(model).expanduser().is_dir():
        file = Path(model).expanduser() / name
        return file if file.is_file() else None
    if model.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    return Path(cached) if isinstance(cached, str) else None


def model_config(model: str | None) -> ConfigJson | None:
    """A model's config.json, if it is on this machine."""
    file = _model_file(model, "config.json")
    found: ConfigJson | None = json.loads(file.read_text(encoding="utf-8")) if file else None
    return found


def token_counter(model: str | None, whose: str) -> tuple[Callable[[str], int], str]:
    """How tokens are counted, and that in words. `whose`: teacher or student."""
    file = _model_file(model, "tokenizer.json")
    if file is None:
        return (lambda text: round(len(text) / CHARACTERS_PER_TOKEN)), "an estimate of 4 characters a token"
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        rule = f"it is no tokenizer ({' '.join(str(error).split())[:200]})"
        raise UserError(str(file), rule, f"Download or export the {whose} again.") from error
    return (lambda text: len(tokenizer.encode(text).ids)), f"the {whose}'s tokenizer, without marks of a chat template"
