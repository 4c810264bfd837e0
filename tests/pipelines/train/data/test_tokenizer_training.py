import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.data.heldout import is_validation
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.train.data import tokenizer_training
from pipelines.train.data.sequences import in_fraction
from pipelines.train.data.tokenizer_training import train_tokenizer
from tests.support.tiny_runs import label_rows, make_token_settings, write_labels
from tests.support.tiny_students import tiny_tokenizer

pytest.importorskip("torch")


def test_it_learns_from_the_rows_that_are_trained_on(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = label_rows(60)
    for row in rows:
        # The longer word is rarer, but each is frequent enough to become a token if its row is read.
        row["input"] += " zebrazebrazebra" * 50 if is_validation(row["id"], 0.2) else ""
        row["input"] += " quaggaquaggaquagga" * 20 if not in_fraction(row["id"], 0.5, 3) else ""
    write_labels(tmp_path, rows)
    model, labels = tmp_path / "model", Store(str(tmp_path / "labels"))
    tiny_tokenizer("decoder-only").save_pretrained(model)

    def trained(name: str, size: int = 400, fraction: float = 1.0, share: float = 0.2) -> Path:
        settings = make_token_settings(model, validation_share=share, fraction=fraction, seed=3)
        train_tokenizer(labels, settings, size, Store(str(tmp_path / name)))
        return tmp_path / name

    found = AutoTokenizer.from_pretrained(trained("own"))
    assert len(found) <= 400
    assert found.eos_token == tiny_tokenizer("decoder-only").eos_token
    text = "[label] Anne has 4 apples and buys 3 .\n"
    assert found.decode(found(text)["input_ids"], skip_special_tokens=True).strip() == text.strip()
    own = (tmp_path / "own/tokenizer.json").read_text()
    all_rows = (trained("all", share=0.0) / "tokenizer.json").read_text()
    half = (trained("half", fraction=0.5) / "tokenizer.json").read_text()
    assert [word in text for text in (all_rows, own, half) for word in ("zebra", "quagga")] == [1, 1, 0, 1, 0, 0]
    assert (trained("own", size=350) / "tokenizer.json").read_text() == own, "a finished one is reused"
    assert json.loads((tmp_path / "own/done.json").read_text()) == {"entries": len(found)}


def test_a_tokenizer_without_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "student_tokenizer", lambda model: SimpleNamespace(is_fast=False))
    with pytest.raises(UserError, match="cannot be trained"):
        train_tokenizer(Store(str(tmp_path)), make_token_settings("org/byt5"), 400, Store(str(tmp_path / "tokenizer")))
