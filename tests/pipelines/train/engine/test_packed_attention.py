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


def _bart() -> Any:
    config = transformers.BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40, pad_token_id=0,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config), "encoder-decoder"


def _gemma2() -> Any:
    sizes = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**sizes, attn_logit_softcapping=1.0)
    ), "decoder-only"


def _mamba() -> Any:
    config = transformers.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=40, state_size=4)
    return transformers.MambaForCausalLM(config), "decoder-only"


@pytest.mark.parametrize("make", [_bart, _gemma2, _mamba])
def test_other_architectures_stay_padded_and_unchanged(make: Any) -> None:
    torch.manual_seed(0)
    model, family = make()
    sequences = [TokenSequence([3, 4, 5], [6, 7], 0)]
    before = logits(model.eval(), sequences, family, packed=False)
    assert not pack(model)
    check_padding(model)
    torch.testing.assert_close(logits(model, sequences, family, packed=False), before, rtol=0, atol=0)


def test_a_model_that_mixes_padded_texts_is_refused() -> None:
    torch.manual_seed(0)
    config = transformers.UMT5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=40, decoder_start_token_id=0
    )
    model = transformers.UMT5ForConditionalGeneration(config).eval()
    assert not pack(model)
    with pytest.raises(
        StageFailedError, match="UMT5ForConditionalGeneration computes other logits for a text that is padded"
    ):
        check_padding(model)
