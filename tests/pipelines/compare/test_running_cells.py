from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.compare.running_cells import RunningCells
from pipelines.errors import StageFailedError
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import EVERY_S, ProgressFile
from pipelines.runtime.stage_progress import StageProgress, read_progress
from pipelines.storage.store import PROGRESS, Store
from tests.support.fake_grid import Lab


def job(folder: Path) -> Any:
    return SimpleNamespace(cell=SimpleNamespace(title=folder.name), run=SimpleNamespace(output=str(folder)))


def test_cells_show_phase_step_and_scored_examples(tmp_path: Path) -> None:
    now = [0.0]
    cells, jobs = RunningCells(lambda: now[0]), [job(tmp_path / "one"), job(tmp_path / "two")]
    assert cells.text(jobs) == "one, two", "nothing is written yet"
    now[0] += EVERY_S
    with ProgressFile(Store(str(tmp_path / "one/student")), "train", "tokens") as training:
        training.phase("tokenising")
        training.write()
        scoring = ProgressFile(Store(str(tmp_path / "two")), "evaluate", "examples")
        with scoring, Progress("evaluate", 20, "examples", file=scoring) as examples:
            examples.advance(5, "student")
            scoring.write()
            assert cells.text(jobs) == "one (tokenising), two (5/20 examples)"
            with Progress("train", 900, "tokens", file=training) as tokens:
                tokens.advance(300, "step 3/9, loss: label 0.412")
                training.write()
                assert cells.text(jobs) == "one (tokenising), two (5/20 examples)", "read as often as written"
                now[0] += EVERY_S
                assert cells.text(jobs) == "one (step 3/9), two (5/20 examples)"
    now[0] += EVERY_S
    assert cells.text(jobs) == "one, two"


def test_a_damaged_file_leaves_the_title(tmp_path: Path) -> None:
    Store(str(tmp_path / "one/student")).write(PROGRESS, b'{"format": 1, "done"')
    assert RunningCells().text([job(tmp_path / "one")]) == "one"


def test_a_comparison_has_a_progress_file(lab: Lab) -> None:
    store, seen = Store(str(lab.path(""))), list[StageProgress | None]()
    lab.fails = lambda run: seen.append(read_progress(store, StageProgress))
    lab.compare()
    assert [found and (found.stage, found.unit) for found in seen] == [("compare", "cells")] * len(seen) != []
    assert not store.exists(PROGRESS)
    lab.fails = lambda run: StageFailedError("the workers died")
    with pytest.raises(StageFailedError):
        lab.compare(compare={"seeds": [0, 1]})
    left = read_progress(store, StageProgress)
    assert (left.ended, left.done, left.total) == (True, left.total, left.total)
