import gc
import json
import logging
import shutil
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.students.decoding import GenerationRequest, Sampling, Student
from pipelines.students.decoding import ctranslate2_student as module
from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student
from pipelines.students.decoding.engines import EngineChoice, open_student
from tests.support.tiny_students import TEXTS, write_student

PROMPTS = [f"[label] {text}" for text in (*TEXTS, *(text[::-1] for text in TEXTS))]
REQUESTS = [GenerationRequest(prompt, 4 + 3 * row) for row, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "encoder-decoder")


@pytest.fixture(scope="module")
def student(folder: Path) -> Ctranslate2Student:
    return Ctranslate2Student.open(folder)


@pytest.mark.parametrize("continues", [False, True])
def test_greedy_texts_equal_the_student(folder: Path, student: Ctranslate2Student, continues: bool) -> None:
    """An end-of-sequence token in what is written ends nothing."""
    written = [(), (20, student.eos), (9, 5, student.eos), (7,), (8, student.eos)]
    requests = REQUESTS
    if continues:
        requests = [GenerationRequest(text, 6 + i, written=written[i]) for i, text in enumerate(TEXTS)]
    steps: list[list[int | None]] = []
    expected = Student.load(folder).write(requests)
    found = student.write(requests, steps.append)
    for one, other in zip(found, expected, strict=True):
        assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
        assert (one.log_probs, one.prompt_tokens) == (pytest.approx(other.log_probs, abs=1e-3), other.prompt_tokens)
    by_row = [tuple(step[row] for step in steps if step[row] is not None) for row in range(len(requests))]
    assert by_row == [output.ids for output in found]
    whole, converted = (one.answer(TEXTS, "label", 8) for one in (Student.load(folder), student))
    assert [decoded.text for decoded in converted] == [decoded.text for decoded in whole]


def test_drawn_texts_have_the_probabilities_of_the_student(folder: Path, student: Ctranslate2Student) -> None:
    import torch

    original = Student.load(folder)
    (output,) = student.write([GenerationRequest("[label] 4 apples", 6, Sampling(0.5))])
    prompt = original.tokenizer("[label] 4 apples", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        before = torch.tensor([[0, *output.ids[:-1]]])
        logits = original.model(input_ids=prompt, decoder_input_ids=before).logits[0]
    expected = logits.log_softmax(-1)[torch.arange(len(output.ids)), torch.tensor(output.ids)]
    assert output.log_probs == pytest.approx(expected.tolist(), abs=1e-3)
    settings = (Sampling(1.0), None, Sampling(1.0, top_p=1e-6))
    mixed = [GenerationRequest(TEXTS[0], 6, sampling) for sampling in settings]
    drawn, greedy, coldest = student.write(mixed)
    assert coldest.ids == greedy.ids
    assert len({student.write([mixed[0]])[0].ids for _ in range(4)} | {drawn.ids}) > 1


def test_rows_end_at_their_limit_or_when_cancelled(student: Ctranslate2Student) -> None:
    requests = [GenerationRequest(REQUESTS[0].prompt, 3), GenerationRequest(REQUESTS[1].prompt, 60)]
    steps: list[int] = []

    def record(tokens: list[int | None]) -> None:
        steps.append(next(row for row, token in enumerate(tokens) if token is not None))

    whole = student.write(requests, record)
    assert [len(output.ids) for output in whole] == [steps.count(0), steps.count(1)] == [3, 60]
    steps.clear()
    short, left = student.write(requests, record, lambda row: row == 1 and steps.count(1) >= 5)
    assert (short, left.ids) == (whole[0], whole[1].ids[:5])
    queried: list[int] = []
    student.write(requests, None, lambda row: queried.append(row) or False)  # type: ignore[func-returns-value]
    assert queried.count(0) <= 3, "the translator must stop at the limit of a row"


def test_a_thread_that_keeps_the_callback_keeps_no_student(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a thread of the translator may destroy the translator, which ends the process."""
    kept, translate = [], Ctranslate2Student._translate

    def keeping(self: Ctranslate2Student, prompts: Any, requests: Any, recorder: Any, **options: Any) -> list[Any]:
        kept.append(recorder)
        return translate(self, prompts, requests, recorder, **options)

    monkeypatch.setattr(Ctranslate2Student, "_translate", keeping)
    ended, own = list[int](), Ctranslate2Student.open(folder)
    own.write(REQUESTS, print, lambda row: False, lambda row, output: ended.append(row))
    assert sorted(ended) == list(range(len(REQUESTS)))
    alive = weakref.ref(own)
    del own
    gc.collect()
    assert (bool(kept), alive()) == (True, None)


def test_student_is_converted_once(folder: Path, student: Ctranslate2Student, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = folder.parent / "student-ctranslate2"
    made = (beside / "model.bin").stat().st_mtime_ns
    monkeypatch.setattr(module, "_convert", lambda *_: pytest.fail("converted again"))
    assert Ctranslate2Student.open(folder).write(REQUESTS[:1]) == student.write(REQUESTS[:1])
    assert (beside / "model.bin").stat().st_mtime_ns == made


def test_new_student_in_a_folder_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder")
    Ctranslate2Student.open(folder)
    mark = tmp_path / "student-ctranslate2" / "converted.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "student": "another"}))
    made = (tmp_path / "student-ctranslate2" / "model.bin").stat().st_mtime_ns
    marked: list[bool] = []
    put = Store.put_folder

    def seen(store: Store, local: str | Path) -> None:
        marked.append(mark.exists())
        put(store, local)

    monkeypatch.setattr(Store, "put_folder", seen)
    Ctranslate2Student.open(folder)
    assert (tmp_path / "student-ctranslate2" / "model.bin").stat().st_mtime_ns > made
    assert marked == [False], "the old mark must go before the files change"
    assert json.loads(mark.read_text())["student"] != "another"


@pytest.mark.parametrize("name", ["model.bin", "config.json", "shared_vocabulary.json"])
def test_a_damaged_conversion_is_made_again(tmp_path: Path, name: str) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder")
    answers = Ctranslate2Student.open(folder).write(REQUESTS[:1])
    file = tmp_path / "student-ctranslate2" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert (Ctranslate2Student.open(folder).write(REQUESTS[:1]), file.read_bytes()) == (answers, whole)


def test_int8_changes_probabilities_a_little(folder: Path, student: Ctranslate2Student) -> None:
    small = Ctranslate2Student.open(folder, weights="int8")
    first, second = ([one.log_probs[0] for one in some.write(REQUESTS)] for some in (small, student))
    assert 0.0 < max(abs(a - b) for a, b in zip(first, second, strict=True)) < 3.0


def test_inaccurate_conversion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder")
    other = write_student(tmp_path / "other", "encoder-decoder")
    from safetensors.torch import load_file, save_file

    weights = {name: tensor * 1.1 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    convert = module._convert
    monkeypatch.setattr(module, "_convert", lambda local, model, shown: convert(other, model, shown))
    with pytest.raises(UserError, match="answers differently"):
        Ctranslate2Student.open(folder)
    assert not (tmp_path / "student-ctranslate2" / "converted.json").exists()
    limits = {"sequences": 1, "workers": 1, "max_new_tokens": 8}
    opened = open_student(str(folder), "encoder-decoder", EngineChoice("auto", "float32", 0), **limits)
    assert opened.engine == "transformers", "evaluation scores it in the next engine"
    with pytest.raises(UserError, match=r"evaluation\.engine ctranslate2: .*answers differently"):
        open_student(str(folder), "encoder-decoder", EngineChoice("ctranslate2", "float32", 0), **limits)


def test_a_conversion_reads_the_one_copy_that_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student on an object store is downloaded once."""
    folder = write_student(tmp_path / "student", "encoder-decoder")
    copy = shutil.copytree(folder, tmp_path / "copy")
    original = Mock(load=Mock(side_effect=Student.load))
    monkeypatch.setattr(module, "Student", original)
    monkeypatch.setattr(module, "checked_copy", lambda store, manifest: nullcontext(copy))
    Ctranslate2Student.open(folder)
    original.load.assert_called_once_with(copy)


def test_read_only_folder_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    folder = write_student(tmp_path / "student", "encoder-decoder")
    monkeypatch.setattr(Store, "put_folder", Mock(side_effect=OSError("read-only file system")))
    with caplog.at_level(logging.WARNING):
        assert Ctranslate2Student.open(folder).write(REQUESTS[:1])
    assert "the conversion cannot be stored (read-only file system)" in caplog.text


def test_code_and_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be an encoder-decoder student"):
        Ctranslate2Student.open(write_student(tmp_path / "other", "decoder-only"))
    folder = write_student(tmp_path / "student", "encoder-decoder")
    Ctranslate2Student.open(folder)
    (folder / "modeling_mine.py").touch()
    with pytest.raises(UserError, match="it holds code"):
        Ctranslate2Student.open(folder)
