import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import LoraConfig
from pipelines.errors import StageFailedError
from pipelines.train.data.collate import TokenSequence, collate
from pipelines.train.engine.export_check import check_difference, logits_difference
from pipelines.train.engine.lora import add_adapters, merge_adapters
from tests.support.tiny_runs import make_model

torch = pytest.importorskip("torch")


def load(family: str, folder: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> Any:
    more = {"decoder_input_ids": torch.tensor([[0, 9, 10]])} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]]), **more).logits


def train(model: Any, std: float) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)


@pytest.mark.parametrize("family", ["decoder-only", "encoder-decoder"])
def test_a_merged_model_answers_as_the_adapted_one(family: str, tmp_path: Path) -> None:
    folder = make_model(family, tmp_path / "model")
    plain, adapted, same, other = (load(family, folder) for _ in range(4))
    state = plain.state_dict()
    assert merge_adapters(plain, state) == state, "unchanged without adapters"
    for model, seed in ((adapted, 0), (same, 0), (other, 1)):
        add_adapters(model, LoraConfig(rank=4, alpha=12.0), seed=seed)
    torch.testing.assert_close(logits(adapted), logits(plain))
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert not any(head in name for name in trained for head in ("lm_head", "shared", "embed_tokens"))
    first = next(name for name in trained if ".lora_A." in name)
    assert torch.equal(trained[first], same.get_parameter(first))
    assert not torch.equal(trained[first], other.get_parameter(first)), "the seed decides the adapters"
    train(adapted, std=0.3)
    expected = logits(adapted)
    assert (expected - logits(plain)).abs().max() > 0.01
    merged = str(tmp_path / "merged")
    adapted.save_pretrained(merged, state_dict=merge_adapters(adapted, adapted.state_dict()))
    torch.testing.assert_close(logits(load(family, merged)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["decoder-only", "encoder-decoder"])
def test_a_student_of_adapters_in_bf16_has_the_trained_logits(family: Any, tmp_path: Path) -> None:
    lora, model = LoraConfig(rank=4, alpha=12.0), load(family, make_model(family, tmp_path / "model"))
    add_adapters(model, lora, seed=0)
    train(model, std=1.0)
    model.to(torch.bfloat16)
    state = model.state_dict()
    sequences = [TokenSequence([5, 6, 7, 8], [9, 10], 0), TokenSequence([5, 6], [9, 1], 0)]
    probe = collate(sequences, family=family, pad=0, start=0).map(torch.from_numpy)
    differences = []
    for precision in (torch.float32, torch.bfloat16):
        folder = str(tmp_path / str(precision))
        merged = {name: tensor.to(precision) for name, tensor in merge_adapters(model, state).items()}
        model.save_pretrained(folder, state_dict=merged)
        differences.append(logits_difference(model, folder, state, lora, probe))
    assert differences[0] < 1e-5
    check_difference(differences[0])
    for wrong in (differences[1], math.nan):
        with pytest.raises(StageFailedError, match=r"its logits differ by up to .* from those of the trained one"):
            check_difference(wrong)
