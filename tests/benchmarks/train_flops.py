"""FLOPs of a training's matrix products, by kind of token. Attention scores are not counted: below 1,000 tokens they are a few percent."""

import re
from pathlib import Path

_OF_ENCODER_OUTPUT = re.compile(r"\.EncDecAttention\.[kv]$")


def training_flops(model: str | Path, prompt_tokens: float, target_tokens: float) -> float:
    """Forward and backward pass: 6 per weight and token that the weight is multiplied with.

    Embeddings are looked up, an encoder reads prompts only, a decoder targets, and the head projects targets.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(model)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        student = kind.from_config(config)
    total = 0.0
    for name, module in student.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        if module is student.get_output_embeddings():
            tokens = target_tokens
        elif not config.is_encoder_decoder:
            tokens = prompt_tokens + target_tokens
        else:
            reads_prompt = name.startswith("encoder.") or _OF_ENCODER_OUTPUT.search(name)
            tokens = prompt_tokens if reads_prompt else target_tokens
        total += 6 * module.weight.numel() * tokens
    return total
