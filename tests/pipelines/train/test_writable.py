import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.train.writable import check_labels_writable, unwritable_rationales
from tests.support.tiny_runs import label_rows, make_token_settings, make_tokenizer, write_labels

SOFT = {"method": "soft-label", "terms": ("label", "soft"), "label_column": "either"}


@pytest.fixture
def labels(tmp_path: Path) -> Store:
    """Six rows: a gold label, the label of the teacher, another label of it, and a rationale with words that the tokenizer lacks."""
    make_tokenizer().save_pretrained(tmp_path / "model")
    rows = label_rows(6)
    rows[0]["gold"] = rows[1]["gold"] = "3 ~ 4"
    rows[2] |= {"gold": None, "label": "{ 5 }"}
    rows[3]["soft_label"] = [{"label": "4 \N{DIVISION SIGN} 2", "probability": 0.5}]
    rows[4]["rationale"] = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    write_labels(tmp_path, rows)
    return Store(str(tmp_path / "labels"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_column": "gold"}, "cannot write 1 of 5 distinct labels (rows: 2): '3 ~ 4' (lost: ~)"),
        ({"label_column": "label"}, "(rows: 1): '{ 5 }' (lost: { })"),
        ({"label_column": "either"}, "cannot write 2 of 5 distinct labels (rows: 3)"),
        (SOFT, "4 \N{DIVISION SIGN} 2"),
        ({"terms": ("rationale",)}, None),
        ({"method": "token-kd", "terms": ("text",), "label_column": "label"}, None),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_written_are_refused(labels: Store, settings: Any, message: Any, tmp_path: Path) -> None:
    with nullcontext() if message is None else pytest.raises(UserError, match=re.escape(message)):
        check_labels_writable(labels, make_token_settings(tmp_path / "model", **settings))


def test_rationales_that_cannot_be_written_are_warned_of(labels: Store, tmp_path: Path) -> None:
    [warning] = unwritable_rationales(labels, make_token_settings(tmp_path / "model"))
    assert "1 of the first 6 rationales have characters that it cannot write (lost: c a f" in warning
    assert unwritable_rationales(labels, make_token_settings(tmp_path / "model", terms=("label",))) == []
    with pytest.raises(UserError, match=r"the chat template of .*: missing"):  # the tokenizer that the training loads
        unwritable_rationales(labels, make_token_settings(tmp_path / "model", prompt="chat"))
