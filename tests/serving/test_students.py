"""Cards of student folders, and an engine that answers mixed questions in batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import MANIFEST
from pipelines.errors import UserError
from serving.students import Engine, Question, Reply, TooLong, read_card, threads_per_replica
from tests.serving.tiny import TEXTS, write_student


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
    assert read_card("sums", folder.as_uri()).fingerprint == card.fingerprint


def test_a_finetuned_student_has_no_rationale(folder: Path, tmp_path: Path) -> None:
    assert not read_card("sums", edited(folder, tmp_path / "s", method="finetune")).has_rationale


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "-a", "a" * 64, "ä", "a\n"])
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
    refused("no \\*.safetensors", str(pickled))
    other = tmp_path / "labels"
    other.mkdir()
    manifest = json.loads((folder / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest | {"type": "labels"}))
    refused("it is a labels artifact", str(other))


def test_an_engine_answers_what_fits_and_writes_rationales_where_asked(folder: Path) -> None:
    engine = Engine(read_card("sums", str(folder)), max_new_tokens=6, gpu=False, threads=1)
    long = " ".join(TEXTS)
    questions = [Question(TEXTS[0]), Question(long), Question(TEXTS[1], rationale=True), Question(TEXTS[2])]
    first, second, third, fourth = engine.answer(questions)
    assert second == TooLong(tokens=engine.student.count_tokens(long, "label"), limit=64)
    expected = engine.student.answer([TEXTS[0], TEXTS[1], TEXTS[2]], "label", 6)
    assert [r.answer.text for r in (first, third, fourth) if isinstance(r, Reply)] == [d.text for d in expected]
    assert isinstance(first, Reply)
    assert first.rationale is None
    assert isinstance(third, Reply)
    assert third.rationale is not None
    assert third.rationale.text == engine.student.answer([TEXTS[1]], "rationale", 6)[0].text
    assert engine.answer([Question(long)]) == [second]


def test_a_student_that_writes_one_text_is_asked_once(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "decoder-only", method="rationale-then-label")
    engine = Engine(read_card("texts", str(folder)), max_new_tokens=6, gpu=False, threads=1)
    (reply,) = engine.answer([Question(TEXTS[0], rationale=True)])
    assert isinstance(reply, Reply)
    assert reply.rationale is None
    assert reply.answer.text == engine.student.answer([TEXTS[0]], "text", 6)[0].text


def test_the_longer_prompt_of_the_two_decides(folder: Path) -> None:
    engine = Engine(read_card("sums", str(folder)), max_new_tokens=1, gpu=False, threads=1)
    label, rationale = (engine.student.count_tokens("apples", part) for part in ("label", "rationale"))
    engine.student.max_input_tokens = min(label, rationale)
    assert label != rationale, "the test needs prompts of two lengths"
    outcome = engine.answer([Question("apples", rationale=True)])
    assert outcome == [TooLong(max(label, rationale), min(label, rationale))]


def test_replicas_share_the_cores() -> None:
    alone = threads_per_replica(1)
    assert alone >= 1
    assert threads_per_replica(10_000) == 1
    assert threads_per_replica(2) == max(1, alone // 2)
