"""Adapters: they change nothing at first, are all that is trained, and are merged into weights that answer as they did."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import LoraConfig
from pipelines.train.engine.lora import merged, put_adapters
from tests.support.tiny_runs import make_model

torch = pytest.importorskip("torch")

FAMILIES = ["decoder-only", "encoder-decoder"]


def load(family: str, folder: Path):
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, family: str):
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": torch.tensor([[0, 9, 10]])} if family == "encoder-decoder" else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_answers_as_the_adapted_one_did(family, tmp_path):
    folder = Path(make_model(family, tmp_path / "model"))
    plain, adapted = load(family, folder), load(family, folder)
    put_adapters(adapted, LoraConfig(rank=4, alpha=12.0), seed=0)
    torch.testing.assert_close(logits(adapted, family), logits(plain, family))

    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    heads = ("lm_head", "shared", "embed_tokens")
    assert not any(head in name for name in trained for head in heads)

    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if name in trained:
            torch.nn.init.normal_(parameter, std=0.3)
    wanted = logits(adapted, family)
    assert (wanted - logits(plain, family)).abs().max() > 0.01
    adapted.save_pretrained(tmp_path / "merged", state_dict=merged(adapted, adapted.state_dict()))
    torch.testing.assert_close(logits(load(family, tmp_path / "merged"), family), wanted, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_adapters(tmp_path):
    folder = Path(make_model("decoder-only", tmp_path / "model"))
    models = [load("decoder-only", folder) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        put_adapters(model, LoraConfig(rank=2), seed)
    name = next(n for n, _ in models[0].named_parameters() if ".lora_A." in n)
    first, same, other = (model.get_parameter(name) for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_weights_without_adapters_stay_as_they_are(tmp_path):
    model = load("decoder-only", Path(make_model("decoder-only", tmp_path / "model")))
    state = model.state_dict()
    assert merged(model, state) == state
