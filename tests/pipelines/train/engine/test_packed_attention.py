"""Packed sequences: none sees a neighbour, and architectures that cannot be packed stay padded. Losses: test_losses.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import StageFailedError
from pipelines.train.data.collate import TokenSequence, collate
from tests.support.reference_training import model_and_sequences

torch = pytest.importorskip("torch")

import transformers  # noqa: E402

from pipelines.train.engine.packed_attention import check_padding, pack  # noqa: E402

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


def logits(model: Any, sequences: list[TokenSequence], family: Any, *, packed: bool) -> Any:
    batch = collate(sequences, family=family, pad=0, start=0, packed=packed).map(torch.from_numpy)
    segments = {"segments": batch.segments} if packed else {}
    with torch.no_grad():
        return model(**batch.inputs, **segments).logits.flatten(0, 1)[batch.positions]


@pytest.mark.parametrize("family", ["decoder-only", "encoder-decoder"])
def test_no_sequence_sees_its_neighbours(family: Any, tmp_path: Path) -> None:
    model, sequences = model_and_sequences(family, tmp_path)
    assert pack(model)
    own, others = sequences[1], [TokenSequence([9] * 3, [8] * 5, 0), TokenSequence([6] * 7, [5], 0)]
    found = logits(model, [sequences[0], own, sequences[2]], family, packed=True)
    changed = logits(model, [others[0], own, others[1]], family, packed=True)
    first, count = len(sequences[0].target), len(own.target)
    torch.testing.assert_close(found[first:][:count], changed[5:][:count], rtol=0, atol=1e-6)


def test_a_sliding_window_holds_inside_a_sequence() -> None:
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=3)
    model = transformers.MistralForCausalLM(config).eval()
    rng = np.random.default_rng(0)
    sequences = [TokenSequence(rng.integers(2, 40, n).tolist(), rng.integers(2, 40, 9).tolist(), 0) for n in (8, 2, 12)]
    alone = torch.cat([logits(model, [one], "decoder-only", packed=False) for one in sequences])
    assert pack(model)
    torch.testing.assert_close(logits(model, sequences, "decoder-only", packed=True), alone, rtol=1e-4, atol=1e-5)


def test_rounding_in_float32_is_no_leak() -> None:
    """As large as SmolLM2-135M's, whose activations are large: it was refused."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=1)).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def rounded(module: Any, inputs: Any, output: Any) -> Any:
        return output if output.dtype == torch.float64 else output * (1 + 7e-4 * torch.randn_like(output))

    model.model.norm.register_forward_hook(rounded)
    check_padding(model)
    assert pack(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("BartForConditionalGeneration", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "pad_token_id": 0}),
    ("Gemma2ForCausalLM", {"num_key_value_heads": 1, "head_dim": 8, "attn_logit_softcapping": 1.0}),
    ("MambaForCausalLM", {"state_size": 4}),
]


@pytest.mark.parametrize(("name", "more"), OTHERS, ids=[name for name, _ in OTHERS])
def test_other_architectures_stay_padded_and_unchanged(name: str, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2} if "d_model" in more else SIZES
    model = kind(kind.config_class(**{"vocab_size": 40, **heads, **more})).eval()
    family: Any = "encoder-decoder" if "d_model" in more else "decoder-only"
    sequences = [TokenSequence([3, 4, 5], [6, 7], 0)]
    before = logits(model, sequences, family, packed=False)
    assert not pack(model)
    check_padding(model)
    torch.testing.assert_close(logits(model, sequences, family, packed=False), before, rtol=0, atol=0)


def test_a_model_that_mixes_padded_texts_is_refused(tmp_path: Path) -> None:
    """UMT5 in transformers 5.17 is one."""
    model, _ = model_and_sequences("encoder-decoder", tmp_path)
    model.eval()
    check_padding(model)
    model.register_forward_pre_hook(
        lambda module, args, inputs: (args, inputs | {"attention_mask": None}), with_kwargs=True
    )
    with pytest.raises(StageFailedError, match="T5ForConditionalGeneration computes other logits for a text that is"):
        check_padding(model)
