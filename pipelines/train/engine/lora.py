"""Low-rank adapters (Hu et al. 2021, "LoRA"), inserted by peft: W x + alpha / rank x B A x, with only A and B trained.

The model keeps its class and its forward pass. The export is W + alpha / rank x B A, a plain float32 checkpoint without adapters: in bf16
the sum loses about a third of the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.config import LoraConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_ADAPTER = "default"
_BASE = ".base_layer"


def add_adapters(model: PreTrainedModel, lora: LoraConfig, seed: int) -> None:
    """Add adapters to every linear layer but the output head, in place, and freeze all other weights.

    B is 0 at first, so that the model's output does not change.
    """
    import peft
    import torch

    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)


def merge_adapters(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole weights `state` of `model` with the adapters merged into them, in float32. Unchanged without adapters."""
    from peft.tuners.lora import LoraLayer

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    if not layers:
        return dict(state)
    # By tensor rather than by name, so that tied weights stay one tensor.
    float32 = {id(tensor): tensor.float() for tensor in state.values()}
    result = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        stem, is_base, rest = name.rpartition(f"{_BASE}.weight")
        merged = float32[id(tensor)]
        if is_base and not rest and stem in layers:
            a, b = (float32[id(state[f"{stem}.lora_{which}.{_ADAPTER}.weight"])] for which in "AB")
            change = layers[stem].scaling[_ADAPTER] * (b @ a)
            # GPT-2's kind of linear layer stores its weights transposed.
            merged = merged + (change.T if layers[stem].fan_in_fan_out else change)
        result[name.replace(_BASE, "")] = merged
    return result
