"""Checks of a student's files: weights must be safetensors, and code is refused.

config.json  model.safetensors  tokenizer.json ...    accepted
pytorch_model.bin, x/model.safetensors                refused: a pickle can run code, and subfolders are not read
modeling_mine.py                                      refused: student code never runs
config.json with `auto_map` and an unknown type       refused: only that code could open it
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.store import Store

_CODE = "student code never runs"
_INDEX = "model.safetensors.index.json"
_SHOWN_CHARACTERS = 100


def check_student_files(store: Store) -> None:
    """Check the files of a student before anything opens them.

    Raises:
        UserError: config.json or weights are missing, weights are pickled, or the folder needs or holds code.
    """
    names = [name for name in store.files() if "/" not in name]
    if "config.json" not in names:
        raise UserError(store.shown(), "it has no config.json", "Train the student again.")
    # No other name counts: without this file transformers opens pickles, even beside other *.safetensors.
    if "model.safetensors" not in names and not _has_shards(store, names):
        pickled = [name for name in names if name.endswith(".bin")]
        rule = (
            f"its weights are pickled ({pickled[0]}), which can run code" if pickled else "it has no model.safetensors"
        )
        raise UserError(store.shown(), rule, "Train the student again, or convert its weights to safetensors.")
    if code := [name for name in names if name.endswith(".py")]:
        rule = f"it holds code ({code[0]}), and {_CODE}"
        raise UserError(store.shown(), rule, "Remove the file if nothing needs it.")
    if needed := _needed_code(store.read("config.json")):
        rule = f"its config.json needs code ({needed}) that transformers lacks, and {_CODE}"
        raise UserError(store.shown(), rule, "Train a student from a model that transformers supports.")


def _has_shards(store: Store, names: list[str]) -> bool:
    """True if an index of sharded weights exists and all its shards exist as safetensors; it could also name pickles."""
    if _INDEX not in names:
        return False
    try:
        index = json.loads(store.read(_INDEX))
        shards = set(index["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(shards) and all(name in names and name.endswith(".safetensors") for name in shards)


def _needed_code(config: bytes) -> str | None:
    """Code that a config.json names, if transformers does not support the model without it."""
    try:
        settings: Any = json.loads(config)
    except ValueError:  # loading the model reports it
        return None
    code = settings.get("auto_map") if isinstance(settings, dict) else None
    if not code:
        return None
    from transformers import CONFIG_MAPPING

    # Models that transformers has adopted keep the entry, and so do their students.
    if str(settings.get("model_type")) in CONFIG_MAPPING:
        return None
    return ", ".join(map(str, code.values() if isinstance(code, dict) else [code]))[:_SHOWN_CHARACTERS]
