"""What a student's folder may hold: weights in safetensors, and nothing that would have to run.

config.json  model.safetensors  tokenizer.json ...    taken
pytorch_model.bin, x/model.safetensors                refused: a pickle can run code, and weights are read in the folder itself alone
modeling_mine.py                                      refused: code of a student's is never run
config.json with `auto_map` and a type of its own     refused: without that code nothing opens it
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.store import Store

_CODE = "no code of a student's is ever run"
_INDEX = "model.safetensors.index.json"
_SHOWN_CHARACTERS = 100


def check_student_files(store: Store) -> None:
    """Refuse a student that nothing here may open.

    Raises:
        UserError: no config.json, weights that are pickled or not there, or code.
    """
    names = [name for name in store.files() if "/" not in name]
    if "config.json" not in names:
        raise UserError(store.shown(), "it has no config.json", "Train the student anew.")
    # By this name alone: where transformers does not find it, it opens pickles, whatever other *.safetensors there are.
    if "model.safetensors" not in names and not _has_shards(store, names):
        pickled = [name for name in names if name.endswith(".bin")]
        rule = (
            f"its weights are pickled ({pickled[0]}), which can run code" if pickled else "it has no model.safetensors"
        )
        raise UserError(store.shown(), rule, "Train the student anew, or convert its weights to safetensors.")
    if code := [name for name in names if name.endswith(".py")]:
        rule = f"it holds code ({code[0]}), and {_CODE}"
        raise UserError(store.shown(), rule, "Remove the file where nothing needs it.")
    if wanted := _needed_code(store.read("config.json")):
        rule = f"its config.json wants code ({wanted}) that transformers does not have, and {_CODE}"
        raise UserError(store.shown(), rule, "Train a student of a model that transformers knows.")


def _has_shards(store: Store, names: list[str]) -> bool:
    """Whether there is an index of weights in several files, all of them here and in safetensors: it could name pickles too."""
    if _INDEX not in names:
        return False
    try:
        index = json.loads(store.read(_INDEX))
        shards = set(index["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(shards) and all(name in names and name.endswith(".safetensors") for name in shards)


def _needed_code(config: bytes) -> str | None:
    """The code that a config.json names and without which transformers does not know the model."""
    try:
        found: Any = json.loads(config)
    except ValueError:  # whoever loads it says so
        return None
    named = found.get("auto_map") if isinstance(found, dict) else None
    if not named:
        return None
    from transformers import CONFIG_MAPPING

    # Models whose code transformers has taken over keep the entry, and so do their students.
    if str(found.get("model_type")) in CONFIG_MAPPING:
        return None
    return ", ".join(map(str, named.values() if isinstance(named, dict) else [named]))[:_SHOWN_CHARACTERS]
