"""Low-rank adapters (Hu et al. 2021, "LoRA"), put in by peft: W x + alpha / rank x B A x, of which only A and B are trained.

The model keeps its class and its forward pass. What is exported is W + alpha / rank x B A: a plain checkpoint that knows of no adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.config import LoraConfig

_ADAPTER = "default"
_BASE = ".base_layer"


def put_adapters(model: Any, lora: LoraConfig, seed: int) -> None:
    """Put adapters into every linear layer but the output head, in place, and freeze all else. B is 0: nothing changes yet."""
    import peft
    import torch

    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)


def merged(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of `model`, whole as in `state`, with the adapters merged into them. As they are where there are no adapters."""
    from peft.tuners.lora import LoraLayer

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    if not layers:
        return dict(state)
    result = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        stem, is_base, rest = name.rpartition(f"{_BASE}.weight")
        if is_base and not rest and stem in layers:
            a, b = (state[f"{stem}.lora_{which}.{_ADAPTER}.weight"].float() for which in "AB")
            change = layers[stem].scaling[_ADAPTER] * (b @ a)
            # GPT-2's kind of linear layer keeps its weights the other way round.
            change = change.T if layers[stem].fan_in_fan_out else change
            tensor = (tensor.float() + change).to(tensor.dtype)
        result[name.replace(_BASE, "")] = tensor
    return result
