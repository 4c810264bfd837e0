"""Fingerprint of a tokenizer. Distributions over tokens are comparable only between models with the same tokenizer."""

from __future__ import annotations

import hashlib
import json


def tokenizer_fingerprint(model: str) -> str:
    """Hash of the vocabulary in the order of its ids, and of the begin and end tokens.

    Excludes the padding token, which training code sets freely and no distribution contains. Excludes the rules that split a text,
    since distributions are compared token by token.

    Args:
        model: hub id or folder.

    Raises:
        OSError: the model has no tokenizer.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    content = [[(index, token) for token, index in vocabulary], tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
