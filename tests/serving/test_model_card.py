"""Cards of student folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.storage.store import MANIFEST
from serving.engines.select import start_engine
from serving.model_card import check_unchanged, read_card
from tests.support.tiny_students import write_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


def edited(folder: Path, target: Path, **details: Any) -> str:
    """A copy of a student folder without its weights, whose manifest has other details; None removes one."""
    target.mkdir()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["details"] = {k: v for k, v in (manifest["details"] | details).items() if v is not None}
    (target / MANIFEST).write_text(json.dumps(manifest))
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").touch()
    return str(target)


def test_a_card_says_what_the_manifest_says(folder: Path) -> None:
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


def test_a_finetuned_student_has_no_rationale(folder: Path, tmp_path: Path) -> None:
    assert not read_card("sums", edited(folder, tmp_path / "s", method="finetune")).has_rationale


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "../a", "-a", "a" * 64, "ä", "a\n", "@", "a@", "@b", "a@b@c", "a@b/c"]
)
def test_names_that_cannot_be_one(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        read_card(name, str(folder))


def test_folders_that_cannot_be_served(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, path: str) -> None:
        with pytest.raises(UserError, match=match):
            read_card("sums", path)

    refused("no such folder", str(tmp_path / "nothing"))
    refused("no finished student artifact", str(tmp_path))
    refused("details lack parameters, task.name", edited(folder, tmp_path / "a", parameters=None, task={}))
    refused("reads the teacher's rationale", edited(folder, tmp_path / "b", method="rationale-as-input"))
    pickled = Path(edited(folder, tmp_path / "c"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused("pickled", str(pickled))
    (pickled / "pytorch_model.bin").unlink()
    refused("no model.safetensors", str(pickled))
    (pickled / "sub").mkdir()
    (pickled / "sub" / "model.safetensors").touch()
    (pickled / "pytorch_model.bin").touch()
    (pickled / "extra.safetensors").touch()
    refused("its weights are pickled \\(pytorch_model.bin\\)", str(pickled))
    for shards in ({"a": "pytorch_model.bin"}, {"a": "gone.safetensors"}, {"a": "sub/model.safetensors"}, {}, []):
        (pickled / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        refused("its weights are pickled", str(pickled))
    (pickled / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "extra.safetensors"}}))
    read_card("sums", str(pickled))
    other = tmp_path / "labels"
    other.mkdir()
    manifest = json.loads((folder / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest | {"type": "labels"}))
    refused("it is a labels artifact", str(other))


def test_a_folder_with_code_is_refused(folder: Path, tmp_path: Path) -> None:
    coded = Path(edited(folder, tmp_path / "coded"))
    (coded / "modeling_mine.py").write_text("raise SystemExit")
    with pytest.raises(UserError, match=r"it holds code \(modeling_mine\.py\), and no code of a student's is ever run"):
        read_card("sums", str(coded))
    (coded / "modeling_mine.py").unlink()
    named = {"auto_map": {"AutoConfig": "other/repo--mine.Config", "AutoModelForCausalLM": "other/repo--mine.Model"}}
    (coded / "config.json").write_text(json.dumps({"model_type": "mine", **named}))
    with pytest.raises(
        UserError, match=r"config\.json wants code \(other/repo--mine\.Config, other/repo--mine\.Model\)"
    ):
        read_card("sums", str(coded))
    # transformers has this model's code itself; the entry stays when a student of it is saved.
    (coded / "config.json").write_text(json.dumps({"model_type": "phi3", **named}))
    assert read_card("sums", str(coded)).name == "sums"


def test_a_task_that_is_code_is_refused_unless_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    task = {"name": "mine.py", "source": "raise SystemExit"}
    coded = edited(folder, tmp_path / "coded", task=task)
    with pytest.raises(UserError, match=r"its task is code of its own, which would run here\. Set serving\.task_code"):
        read_card("sums", coded)
    assert read_card("sums", coded, task_code=True).task.source == "raise SystemExit"


def test_another_student_in_the_folder_is_not_the_one_that_was_meant(folder: Path, tmp_path: Path) -> None:
    place = Path(edited(folder, tmp_path / "s"))
    card = read_card("sums", str(place))
    assert read_card("sums", str(place), fingerprint=card.fingerprint) == card
    check_unchanged(card)
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": "e" * 64}))
    match = f"it holds another student \\(eeeeeeeeeeee\\) than the one that was deployed \\({card.fingerprint[:12]}\\)"
    with pytest.raises(UserError, match=match):
        read_card("sums", str(place), fingerprint=card.fingerprint)
    with pytest.raises(UserError, match=match):
        start_engine(card, ServingConfig(), None)  # type: ignore[arg-type]
    (place / MANIFEST).unlink()
    with pytest.raises(UserError, match="no finished student"):
        check_unchanged(card)
