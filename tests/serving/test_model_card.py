import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.storage.store import MANIFEST
from serving.engines.select import start_engine
from serving.model_card import check_unchanged, read_card
from tests.support.fake_students import FakeMetrics
from tests.support.tiny_students import copy_with_details, write_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


def test_a_card_holds_the_facts_of_the_manifest(folder: Path, tmp_path: Path) -> None:
    card = read_card("sums-1.0", str(folder))
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (card.name, card.folder, card.fingerprint) == ("sums-1.0", str(folder), manifest["fingerprint"])
    assert (card.method, card.family, card.max_input_tokens) == ("step-by-step", "decoder-only", 64)
    assert card.parameters == manifest["details"]["parameters"]
    assert card.task.name == "arithmetic"
    assert card.provenance == manifest["provenance"]
    assert card.has_rationale
    assert (card.version, card.id) == (None, "sums-1.0")
    versioned = read_card("sums@2", str(folder))
    assert (versioned.name, versioned.version, versioned.id) == ("sums", "2", "sums@2")
    assert read_card("sums", folder.as_uri()).fingerprint == card.fingerprint
    other = copy_with_details(folder, tmp_path / "s", method="finetune")
    for student, prompt in (({"prompt": "chat"}, "chat"), (None, "plain")):
        edit_manifest(Path(other), config={"student": student})
        assert (read_card("sums", other).has_rationale, read_card("sums", other).prompt) == (False, prompt)
    assert card.prompt == "plain"
    with pytest.raises(UserError, match=r"it is the output of a run.*Give that folder: .*/student"):
        read_card("sums", str(folder.parent))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "-a", "a" * 64, "ä", "a\n", "@", "a@", "@b", "a@b@c"])
def test_an_invalid_name_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        read_card(name, str(folder))


def edit_manifest(student: Path, **fields: object) -> None:
    (student / MANIFEST).write_text(json.dumps(json.loads((student / MANIFEST).read_text()) | fields))


def edit_details(student: Path, without: str = "", **changed: object) -> None:
    details = json.loads((student / MANIFEST).read_text())["details"] | changed
    edit_manifest(student, details={key: value for key, value in details.items() if key != without})


def write_shards(student: Path, shards: object) -> None:
    """Pickled weights, and an index of weights in several files."""
    (student / "model.safetensors").rename(student / "extra.safetensors")
    (student / "pytorch_model.bin").touch()
    (student / "sub").mkdir()
    (student / "sub" / "model.safetensors").touch()
    (student / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


CODE = {"auto_map": {"AutoConfig": "other/repo--mine.Config", "AutoModelForCausalLM": "other/repo--mine.Model"}}
OTHERS = r"other/repo--mine\."


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda s: (s / MANIFEST).unlink(), "no finished student artifact"),
        (shutil.rmtree, "the folder does not exist"),
        (lambda s: edit_manifest(s, type="labels"), "it is a labels artifact"),
        (lambda s: edit_details(s, "parameters", task={}), r"details lack a valid parameters, task\.name"),
        (lambda s: edit_details(s, files={"config.json": 5}), r"lack a valid files\.config\.json"),
        (lambda s: edit_details(s, method="rationale-as-input"), "reads the teacher's rationale"),
        (lambda s: edit_details(s, method="of-tomorrow"), "this version does not know its method of-tomorrow"),
        (lambda s: (s / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda s: (s / "model.safetensors").rename(s / "pytorch_model.bin"), r"pickled \(pytorch_model.bin\)"),
        *[
            (lambda s, shards=shards: write_shards(s, shards), r"pickled \(pytorch_model.bin\)")
            for shards in (*({"a": f"{one}"} for one in ("pytorch_model.bin", "gone.safetensors", "sub/model.safetensors")), {}, [])
        ],
        (lambda s: write_shards(s, {"a": "extra.safetensors"}), None),
        (lambda s: (s / "modeling_mine.py").write_text("raise SystemExit"), r"holds code \(modeling_mine\.py\)"),
        (lambda s: (s / "config.json").write_text(json.dumps({"model_type": "mine", **CODE})), rf"code \({OTHERS}Config, {OTHERS}Model\)"),
        # transformers itself has this model's code; the entry stays in its students.
        (lambda s: (s / "config.json").write_text(json.dumps({"model_type": "phi3", **CODE})), None),
    ],
)  # fmt: skip
def test_only_known_students_without_code_are_served(
    folder: Path, tmp_path: Path, edit: Any, match: str | None
) -> None:
    student = Path(copy_with_details(folder, tmp_path / "student"))
    edit(student)
    if match is None:
        assert read_card("sums", str(student)).name == "sums"
        return
    with pytest.raises(UserError, match=match):
        read_card("sums", str(student))


def test_another_student_in_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    student = Path(copy_with_details(folder, tmp_path / "s"))
    card = read_card("sums", str(student))
    for expected in (card.content, card.fingerprint):  # endpoints that 0.1 deployed name the latter
        assert read_card("sums", str(student), fingerprint=expected) == card
    check_unchanged(card)
    (student / "tokenizer.json").write_bytes(b"{}")
    edit_manifest(student, created="2030-01-01T00:00:00+00:00")  # trained again with the same settings
    match = f"it holds another student \\([0-9a-f]{{12}}\\) than the deployed one \\({card.content[:12]}\\)"
    with pytest.raises(UserError, match=match):
        read_card("sums", str(student), fingerprint=card.content)
    with pytest.raises(UserError, match=match):
        start_engine(card, ServingConfig(), FakeMetrics())  # type: ignore[arg-type]
    (student / MANIFEST).unlink()
    with pytest.raises(UserError, match="no finished student"):
        check_unchanged(card)
