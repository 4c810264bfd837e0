"""A student's own tokenizer, and validation examples from a file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.heldout import is_validation
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.tasks import task_spec
from pipelines.train.data import tokenizer_training
from pipelines.train.data.sequences import TokenSettings, in_fraction
from pipelines.train.data.tokenizer_training import train_tokenizer
from tests.support.tiny_runs import label_rows, write_labels
from tests.support.tiny_students import tiny_tokenizer

pytest.importorskip("torch")


def settings(model: Path | str, **changed: Any) -> TokenSettings:
    """What of a training's settings decides a tokenizer; a fifth of the rows is held out."""
    given: dict[str, Any] = {
        "family": "decoder-only", "method": "step-by-step", "terms": ("label", "rationale"), "label_column": "gold",
        "validation_share": 0.2, "max_input_tokens": 64, "max_target_tokens": 32, "task": task_spec("arithmetic"),
    }  # fmt: skip
    return TokenSettings(model=str(model), **{**given, **changed})


def test_it_is_trained_on_what_is_trained_on(tmp_path: Path) -> None:
    rows = label_rows(60)
    held_out = next(row for row in rows if is_validation(row["id"], 0.2))
    held_out["input"] += " zebrazebrazebra" * 50
    write_labels(tmp_path, rows)
    model = tmp_path / "model"
    tiny_tokenizer("decoder-only").save_pretrained(model)
    store = Store(str(tmp_path / "tokenizer"))
    train_tokenizer(Store(str(tmp_path / "labels")), settings(model), 400, store)

    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(store.root)
    assert len(found) <= 400
    assert found.eos_token == tiny_tokenizer("decoder-only").eos_token
    text = "[label] Anne has 4 apples and buys 3 .\n"
    assert found.decode(found(text)["input_ids"], skip_special_tokens=True).strip() == text.strip()
    assert not any("zebra" in token for token in found.get_vocab())

    before = (Path(store.root) / "tokenizer.json").read_bytes()
    train_tokenizer(Store(str(tmp_path / "labels")), settings(model), 350, store)
    assert (Path(store.root) / "tokenizer.json").read_bytes() == before, "what is there stays"
    assert json.loads((Path(store.root) / "done.json").read_text()) == {"entries": len(found)}


def test_rows_outside_the_share_that_is_used_are_not_read(tmp_path: Path) -> None:
    rows = label_rows(60)
    unused = [row for row in rows if not in_fraction(row["id"], 0.5, 3)]
    for row in unused:
        row["input"] += " zebrazebrazebra" * 20
    write_labels(tmp_path, rows)
    tiny_tokenizer("decoder-only").save_pretrained(tmp_path / "model")

    def entries(**changed: Any) -> str:
        store = Store(str(tmp_path / f"tokenizer{len(changed)}"))
        train_tokenizer(Store(str(tmp_path / "labels")), settings(tmp_path / "model", **changed), 400, store)
        return (Path(store.root) / "tokenizer.json").read_text(encoding="utf-8")

    assert 20 < len(unused) < 40
    assert "zebra" in entries()
    assert "zebra" not in entries(fraction=0.5, seed=3)


def test_a_tokenizer_that_has_no_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bytes:
        is_fast = False

    write_labels(tmp_path, label_rows(4))
    monkeypatch.setattr(tokenizer_training, "student_tokenizer", lambda model: Bytes())
    with pytest.raises(UserError, match="cannot be trained"):
        train_tokenizer(Store(str(tmp_path / "labels")), settings("org/byt5"), 400, Store(str(tmp_path / "tokenizer")))
