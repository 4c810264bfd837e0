from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.label.identity import label_identity
from pipelines.label.stage import check_label
from tests.support.corpora import run_config, write_jsonl

LINE = {"question": "1 and 1?", "answer": "1 + 1 = 2. The answer is (1 + 1)."}


def run(folder: Path, teacher: dict[str, Any] | None = None, validation: float = 0.1) -> RunConfig:
    train = write_jsonl(folder / "train.jsonl", [{"id": "a", "input": "Anne has 4 apples.", "label": "4"}])
    return run_config({"engine": "echo", **(teacher or {})}, train=train, corpus={"validation": validation})


def test_shots_belong_to_the_identity_and_are_checked_first(tmp_path: Path) -> None:
    def with_shots(*lines: object) -> RunConfig:
        return run(tmp_path, {"shots": write_jsonl(tmp_path / f"shots{len(lines)}.jsonl", lines)})

    found = [
        label_identity(one)["teacher"]["shots"] for one in (run(tmp_path), with_shots(LINE), with_shots(LINE, LINE))
    ]
    assert len(set(found)) == 3
    check_label(with_shots(LINE))
    with pytest.raises(UserError, match="line 3"):
        check_label(with_shots(LINE, LINE, "nonsense"))


def test_the_validation_split_matters_if_rows_are_rationalised(tmp_path: Path) -> None:
    def identity(gold: str, validation: float) -> dict[str, Any]:
        return label_identity(run(tmp_path, {"filters": {"gold": gold}}, validation))

    assert identity("keep", 0.1) == identity("keep", 0.2)
    assert "never_rationalised" not in identity("drop-disagreeing", 0.1)
    assert identity("rationalise", 0.1)["never_rationalised"] == 0.1
    assert identity("rationalise", 0.1) != identity("rationalise", 0.2)


@pytest.mark.parametrize(("engine", "model"), [("openai", "a folder here"), ("echo", None)])
def test_an_endpoints_model_is_a_name_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, model: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a folder here").mkdir()
    teacher = {"engine": engine, "model": model, "remote": {"url": "http://127.0.0.1/v1"}}
    assert label_identity(run(tmp_path, teacher))["teacher"]["model"] == model
