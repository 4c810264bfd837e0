"""A LoRA adapter of a vLLM teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.errors import UserError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for `max_lora_rank`."""
_HUB_RANK = 64
"""For an adapter that is not on this machine. `vllm.engine_args: {max_lora_rank: 128}` sets another."""


def lora_rank(lora: str) -> int:
    """The `max_lora_rank` that an adapter needs.

    Raises:
        UserError: the folder is no LoRA adapter, or its rank is too large.
    """
    folder, key = Path(lora).expanduser(), f"teacher.vllm.lora {lora}"
    if not folder.exists():
        if lora.startswith((".", "/", "~")) or lora.count("/") > 1:
            raise UserError(key, "the folder does not exist", "Give a hub id or the folder of an adapter.")
        return _HUB_RANK
    try:
        rank = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        rule = "the folder has no adapter_config.json with a rank `r`"
        raise UserError(key, rule, "Give the folder of a LoRA adapter as PEFT saves it.") from error
    fitting = [allowed for allowed in _RANKS if isinstance(rank, int) and rank <= allowed]
    if not fitting:
        raise UserError(key, f"its rank is {rank}, vLLM takes up to {_RANKS[-1]}", "Merge the adapter into its model.")
    return fitting[0]


def lora_request(lora: str) -> Any:
    """What each request of the engine carries."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(Path(lora).expanduser()) if Path(lora).expanduser().exists() else lora)
