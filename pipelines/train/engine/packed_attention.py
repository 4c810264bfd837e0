"""Attention over sequences that stand one after the other in one row, without padding and without looking at each other.

    lengths 3, 2    row  a a a b b    attends  a to a, b to b

Each sequence is attended to on its own, by views into the row: small enough for a core's cache, and nothing is computed for a neighbour.
Linear layers, norms and the head see one long row. T5's position bias depends on a sequence's own positions alone. So one bias for each
length serves all layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from pipelines.errors import StageFailedError
from pipelines.runtime.compat.transformers import attention_implementation
from pipelines.students.decoding import model_family
from pipelines.train.data.collate import Segments, TokenSequence, collate

NAME = "raystill_packed"
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
_UNSUPPORTED = ("softcap", "s_aux")
"""Arguments by which some architectures change the scores."""
_TRIED = (TokenSequence([2, 3, 4, 5, 6], [7, 8, 9], 0), TokenSequence([9, 8, 7], [6, 5, 4, 3], 0))
_TOLERANCE = 1e-4
"""Of a logit, relative to the largest one, in float64. In float32 rounding alone reaches 7e-4 (SmolLM2-135M: large activations)."""
Biases = Mapping[int, Tensor]
"""(heads, length, length) the bias of a sequence's scores, by its length. Empty for T5's cross attention, which has none."""


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    segments: Segments | None = None, dropout: float = 0.0, scaling: float | None = None, position_bias: Biases | None = None,
    sliding_window: int | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Called by transformers for every attention. query, key, value: (1, heads, tokens, width) -> (1, tokens, heads, width).

    Raises:
        ValueError: the architecture computes scores in another way.
    """
    if segments is None or attention_mask is not None or any(others.get(name) is not None for name in _UNSUPPORTED):
        raise ValueError(f"{type(module).__name__} cannot attend to packed sequences")
    decodes = bool(segments.targets) and bool(getattr(module, "is_decoder", False))
    queries = segments.targets if decodes else segments.inputs
    keys = queries if position_bias is None or module.is_causal else segments.inputs
    if (sum(queries), sum(keys)) != (query.shape[2], key.shape[2]):
        raise ValueError(f"{type(module).__name__} attends to other tokens than those of its sequence")
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # torch's CPU kernel has no shared keys
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    # In float32 also beside products in bf16, whose kernels torch compiles for each length.
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        rows = zip((query, key, value), (queries, keys, keys), strict=True)
        parts = zip(*(x.to(dtype).split(lengths, dim=2) for x, lengths in rows), strict=True)
        if position_bias is None:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            outputs = [_causal(*part, scale=scale, dropout=dropout, window=sliding_window) for part in parts]
        else:
            outputs = [_biased(*part, biases=position_bias, dropout=dropout) for part in parts]
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1), None


def _causal(query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float, window: int | None) -> Tensor:
    """Attention of one sequence to itself, all of (1, heads, length, width)."""
    length, mask = query.shape[2], None
    if window is not None and window < length:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale
    )


def _biased(query: Tensor, key: Tensor, value: Tensor, *, biases: Biases, dropout: float) -> Tensor:
    """T5's attention of one sequence: scores are not scaled and have a bias. Kernels of torch give a bias no gradient."""
    if biases:
        scores = torch.baddbmm(biases[query.shape[2]], query[0], key[0].transpose(1, 2))
    else:
        scores = torch.bmm(query[0], key[0].transpose(1, 2))
    weights = functional.dropout(torch.softmax(scores, dim=-1), dropout, training=dropout > 0)
    return torch.bmm(weights, value[0])[None]


def pack(model: PreTrainedModel) -> bool:
    """Make a model read packed sequences, if it computes the same for each as for the sequence alone. Otherwise change nothing.

    A model is tried rather than looked up: architectures differ in what they pass to their attention.

    Args:
        model: in evaluation mode.
    """
    if not set(getattr(model.config, "layer_types", None) or ()) <= _PLAIN_LAYERS:
        return False
    before = attention_implementation(model)
    with _float64(model):
        expected = torch.cat([_logits(model, [sequence], packed=False) for sequence in _TRIED])
        AttentionInterface.register(NAME, packed_attention)
        _set_attention(model, NAME)
        hooks = [m.register_forward_pre_hook(_add_biases, with_kwargs=True) for m in model.modules() if _has_bias(m)]
        try:
            difference = float((_logits(model, _TRIED, packed=True) - expected).abs().max())
        except (TypeError, ValueError):  # it does not pass `segments`, or its attention is not this one
            difference = math.inf
    if difference <= _TOLERANCE * float(expected.abs().max()):
        return True
    _set_attention(model, before)
    for hook in hooks:
        hook.remove()
    return False


def check_padding(model: PreTrainedModel) -> None:
    """Raise StageFailedError if texts that are padded together change each other's logits (UMT5 in transformers 5.17)."""
    with _float64(model):
        expected = torch.cat([_logits(model, [sequence], packed=False) for sequence in _TRIED])
        difference = float((_logits(model, _TRIED, packed=False) - expected).abs().max())
    if difference > _TOLERANCE * float(expected.abs().max()):
        rule = f"{type(model).__name__} computes other logits for a text that is padded beside a longer one"
        raise StageFailedError(
            f"student.model: {rule}, by up to {difference:.2g}. Give a student of another architecture"
        )


@contextmanager
def _float64(model: PreTrainedModel) -> Iterator[None]:
    """Weights in float64 during the block, and unchanged after it. They take less memory than Adam's moments will."""
    tensors = [x for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()]
    dtypes = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)


def _logits(model: PreTrainedModel, sequences: Sequence[TokenSequence], *, packed: bool) -> Tensor:
    """(N, V) the logits that predict the sequences' targets."""
    batch = collate(sequences, family=model_family(model.config), pad=0, start=0, packed=packed).map(torch.from_numpy)
    segments = {"segments": batch.segments} if packed else {}
    with torch.no_grad():
        logits: Tensor = model(**batch.inputs, **segments, use_cache=False).logits
    return logits.flatten(0, 1)[batch.positions]


def _set_attention(model: PreTrainedModel, name: str) -> None:
    for module in model.modules():  # encoder and decoder have a config each
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation(name)


def _has_bias(module: torch.nn.Module) -> bool:
    return hasattr(module, "has_relative_attention_bias") and hasattr(module, "compute_bias")


def _add_biases(module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give T5's attention its biases by length, rather than let it compute one for the whole row. Later layers get those of the first."""
    segments: Segments | None = options.get("segments")
    if segments is not None and options.get("position_bias") is None:
        options["position_bias"] = _biases(module, segments)
    return arguments, options


def _biases(module: Any, segments: Segments) -> Biases:
    if not module.has_relative_attention_bias:
        return {}
    lengths = segments.targets if module.is_decoder else segments.inputs
    longest = max(lengths)
    whole = module.compute_bias(longest, longest)[0]
    if module.is_causal:
        later = torch.ones(longest, longest, dtype=torch.bool, device=whole.device).triu(1)
        whole = whole.masked_fill(later, float("-inf"))
    return {length: whole[:, :length, :length] for length in set(lengths)}
