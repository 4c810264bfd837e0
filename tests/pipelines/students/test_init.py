import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import StudentConfig
from pipelines.errors import UserError
from pipelines.students.decoding import Family
from pipelines.students.init import initial_student, max_positions, student_config
from tests.support.tiny_runs import make_model

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

LAYERS = {"decoder-only": ("model.layers.",), "encoder-decoder": ("encoder.block.", "decoder.block.")}


@pytest.fixture(scope="module", params=["decoder-only", "encoder-decoder"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_model(family, tmp_path_factory.mktemp(family), layers=4))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def student(model: Path, **init: Any) -> StudentConfig:
    return StudentConfig.model_validate({"model": str(model), **({"init": init} if init else {})})


def weights(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_pretrained_student_has_the_stored_weights(folder: Path, family: Family) -> None:
    model, tokenizer = initial_student(student(folder), seed=0)
    found = weights(model)
    for name, tensor in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert model.generation_config.do_sample is False
    assert max_positions(student_config(student(folder))) == (64 if family == "decoder-only" else None)


def test_first_layers_keep_all_but_the_later_layers(folder: Path, family: Family) -> None:
    whole, _ = initial_student(student(folder), seed=0)
    cut, _ = initial_student(student(folder, kind="first-layers", layers=2), seed=0)
    expected = {
        name: tensor for name, tensor in weights(whole).items()
        if not any(name.startswith(prefix) and int(name[len(prefix):].split(".")[0]) >= 2 for prefix in LAYERS[family])
    }  # fmt: skip
    found = weights(cut)
    assert found.keys() == expected.keys()
    assert len(found) < len(weights(whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
    cut(**inputs(family))


def test_random_weights_follow_the_seed_alone(folder: Path, copy: Path) -> None:
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    first, _ = initial_student(student(folder, kind="random"), seed=1)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state must not change"
    torch.manual_seed(456)
    (copy / "model.safetensors").unlink()  # it reads no weights
    same, _ = initial_student(student(copy, kind="random"), seed=1)
    other, _ = initial_student(student(folder, kind="random"), seed=2)
    pretrained, _ = initial_student(student(folder), seed=1)
    weight = first.get_input_embeddings().weight
    assert torch.equal(weight, same.get_input_embeddings().weight)
    assert not torch.equal(weight, other.get_input_embeddings().weight)
    assert not torch.equal(weight, pretrained.get_input_embeddings().weight)


@pytest.mark.parametrize("init", [{}, {"kind": "random"}, {"kind": "first-layers", "layers": 1}])
def test_weights_are_float32_for_any_checkpoint(copy: Path, init: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if student_config(student(copy)).is_encoder_decoder else AutoModelForCausalLM
    kind.from_pretrained(copy, dtype=torch.bfloat16).save_pretrained(copy)
    model, _ = initial_student(student(copy, **init), seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_end_token_pads_if_there_is_no_padding_token(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", pad_token=None)
    model, tokenizer = initial_student(student(copy), seed=0)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 1


def without_one_weight(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    del stored[next(name for name in sorted(stored) if name.endswith(("down_proj.weight", "wo.weight")))]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "init", "message"),
    [
        (lambda folder: None, {"kind": "first-layers", "layers": 5}, r"student.init.layers 5: .* has 4 layers"),
        (lambda folder: edit(folder / "tokenizer_config.json", eos_token=None), {}, "no end-of-sequence token"),
        (
            lambda folder: edit(folder / "config.json", architectures=["BertForMaskedLM"], is_encoder_decoder=False),
            {},
            "BertForMaskedLM only encodes",
        ),
        (shutil.rmtree, {}, "the folder does not exist"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), {}, "pickled"),
        (lambda folder: (folder / "model.safetensors").unlink(), {}, "it cannot be opened"),
        (without_one_weight, {}, r"its weights do not fit its config.json"),
        (lambda folder: edit(folder / "config.json", vocab_size=20), {"kind": "random"}, "token ids up to"),
    ],
)
def test_unsuitable_model_is_refused(copy: Path, damage: Any, init: dict[str, Any], message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message):
        initial_student(student(copy, **init), seed=0)


def inputs(family: Family) -> dict[str, Any]:
    ids = torch.tensor([[3, 4, 5]])
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if family == "encoder-decoder" else {})
