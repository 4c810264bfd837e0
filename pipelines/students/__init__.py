"""Students: initial weights, tokenizers, manifests and decoding."""
