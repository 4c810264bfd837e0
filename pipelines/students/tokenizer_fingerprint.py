"""Whether two models have the same tokenizer: distributions over tokens are comparable only then."""

from __future__ import annotations

import hashlib
import json


def tokenizer_fingerprint(model: str) -> str:
    """A hash of the vocabulary in the order of its ids, and of the tokens that begin and end a text.

    The padding token is left out: what trains a model sets it freely, and no distribution knows it. How text is split into tokens is
    left out too: what is compared here are tokens.

    Args:
        model: hub id or folder.

    Raises:
        OSError: there is no tokenizer.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    content = [[(index, token) for token, index in vocabulary], tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
