"""Rows that kill engines become rejects, all others are labelled, and the next run retries them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.config import RunConfig
from pipelines.errors import StageFailedError
from pipelines.label import stage
from pipelines.label.stage import label
from tests.support.run_files import label_run, word_rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROWS = 80


def deadly_task(folder: Path) -> str:
    """A task whose label `6 * 7` kills its engine until the file `healed` exists. A file counts deaths."""
    source = f"""
import os

from pipelines.label.teachers.base import EngineDeadError
from pipelines.tasks.arithmetic import Arithmetic


class Deadly(Arithmetic):
    name = "deadly"

    def render(self, answer):
        if answer.label == "6 * 7" and not os.path.exists({str(folder / "healed")!r}):
            with open({str(folder / "deaths")!r}, "a") as deaths:
                deaths.write("x")
            raise EngineDeadError("this row")
        return super().render(answer)
"""
    (folder / "deadly.py").write_text(source)
    return str(folder / "deadly.py")


def run_with(folder: Path, share: float) -> RunConfig:
    """A corpus of ROWS rows whose middle row kills engines, and an unreadable row."""
    rows = word_rows(ROWS)
    rows[ROWS // 2] |= {"input": "A shelf holds 6 books. How many do 7 such shelves hold?", "label": "6 * 7"}
    teacher = {"latency_s": 0.05, "vllm": {"max_num_seqs": 8}}
    labelling = {"max_engine_error_share": share}
    return label_run(folder, [*rows, {"id": "unreadable"}], teacher, task=deadly_task(folder), labelling=labelling)


def outcomes(folder: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    data, rejects = (list((folder / "out/labels" / name).glob("*.parquet")) for name in ("data", "rejects"))
    accepted = Counter(i for part in data for i in pq.read_table(part)["id"].to_pylist())
    return accepted, [row for part in rejects for row in pq.read_table(part).to_pylist()]


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_row_that_kills_two_engines_is_retried_next_time(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with(tmp_path, share=0.5)
    manifest = label(run)
    accepted, rejects = outcomes(tmp_path)
    poison, unread = f"r{ROWS // 2}", ("unreadable", "bad_input")
    assert sorted((row["id"], row["reason"]) for row in rejects) == [(poison, "engine_error"), unread]
    assert any("2 engines died" in row["detail"] for row in rejects)
    assert f"label: 1 of {ROWS + 1} rows could not be answered" in capsys.readouterr().err
    assert (tmp_path / "deaths").read_text() == "xx"
    assert manifest.details["engines"]["deaths"] == 2
    assert (len(accepted), set(accepted.values())) == (ROWS - 1, {1})
    assert manifest.counts["rejected_by_reason"] == {"engine_error": 1, "bad_input": 1}

    (tmp_path / "healed").touch()
    with monkeypatch.context() as patch:  # ended after the commit of the new outcome, before the manifest
        patch.setattr(stage, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            label(run)
    healed = label(run)
    accepted, rejects = outcomes(tmp_path)
    assert (len(accepted), set(accepted.values())) == (ROWS, {1})
    assert [(row["id"], row["reason"]) for row in rejects] == [unread]
    assert (healed.counts["accepted"], healed.counts["rejected"]) == (ROWS, 1)
    assert healed.details["resumed_at_rows"] == ROWS + 1
    assert healed.fingerprint == manifest.fingerprint
    assert healed.details["content"] != manifest.details["content"]
    assert label(run) == healed


def test_too_many_engine_errors_fail_the_finished_stage(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(StageFailedError, match=f"no engine could answer 1 of {ROWS + 1} rows"):
        label(run_with(tmp_path, share=0.01))
    assert json.loads((tmp_path / "out/labels/manifest.json").read_text())["counts"]["accepted"] == ROWS - 1
