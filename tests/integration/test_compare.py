"""`raystill compare` on real Ray Train and DeepSpeed with a tiny model: search, and a grid with a killed driver."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import MANIFEST
from tests.support.commands import raystill, running
from tests.support.corpora import write_jsonl
from tests.support.label_kills import Family, sigkill
from tests.support.local_ray import shared_environment
from tests.support.run_files import write_run_file
from tests.support.tiny_runs import label_rows, make_model, make_run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

GRID = {"methods": ["finetune", "step-by-step"], "seeds": [0], "fractions": [0.5, 1.0]}
"""Four cells, and one with shuffled rationales."""
MEASURED = ("groups", "differences", "lines", "heldout", "search", "students", "headline", "notes", "missing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model("decoder-only", tmp_path_factory.mktemp("model") / "tiny")


def _prepare(folder: Path, model: str, **compare: Any) -> Path:
    """A run file with its corpus and recorded teacher outputs."""
    rows, heldout = label_rows(60), label_rows(20, seed=1)
    corpus: dict[str, Any] = {"validation": 0.2}
    for name, some in (("train", rows), ("test", heldout)):
        examples = [{"id": f"{name}-{row['id']}", "input": row["input"], "label": row["gold"]} for row in some]
        corpus[name] = write_jsonl(folder / f"{name}.jsonl", examples)
    answers = [{"id": f"train-{r['id']}", "output": f"{r['rationale']} The answer is {r['gold']}."} for r in rows]
    run = make_run(
        folder / "out", model, corpus=corpus, compare=compare, student={"init": {"kind": "random"}},
        teacher={"engine": "replay", "outputs": write_jsonl(folder / "outputs.jsonl", answers)},
        training={"workers": 1, "epochs": 2}, evaluation={"max_new_tokens": 12, "engine": "transformers"},
    )  # fmt: skip
    return write_run_file(folder, run)


def _report(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out/compare/report.json").read_text()))


def _measured(report: dict[str, Any]) -> dict[str, Any]:
    """The parts of a report that do not depend on time."""
    kept = json.loads(json.dumps({key: report[key] for key in MEASURED}))
    for group in kept["groups"]:
        for cell in group["cells"]:
            for key in ("train_s", "gpu_hours", "seconds_per_example"):
                del cell[key]
    return dict(kept)


def test_search_chooses_on_validation_and_reuses_its_winners(tmp_path: Path, model: str) -> None:
    search = {"trials": 2, "learning_rate": [1e-4, 1e-2]}
    grid = {"methods": ["step-by-step"], "fractions": [1.0], "seeds": [0], "arms": ["shuffled-rationales"]}
    file = _prepare(tmp_path, model, **grid, search=search)
    done = raystill("compare", str(file), env=shared_environment())
    assert done.returncode == 0, done.stderr
    report = _report(tmp_path)
    settings = report["search"]["settings"]
    assert [s["learning_rate"] for s in settings] == [1e-4, 1e-2]
    assert all(s["total"] == report["search"]["examples"] for s in settings)
    best = max(settings, key=lambda s: (s["correct"], -s["learning_rate"]))
    assert [s for s in settings if s["chosen"]] == [best]
    assert [group["treatment"] is None for group in report["groups"]] == [True, False]
    for group in report["groups"]:
        assert group["cells"][0]["learning_rate"] == best["learning_rate"]
    folders = sorted(path.name for path in (tmp_path / "out/compare/cells").iterdir())
    assert len(folders) == 3, "the selected trial must become the cell"
    scored = list((tmp_path / "out/compare/cells").glob("*/heldout-*/manifest.json"))
    assert len(scored) == 2, "a rejected trial read held-out examples"
    assert not list((tmp_path / "out/compare/cells").glob("*/student")), "weights must be deleted after scoring"
    assert report["headline"] in done.stdout
    assert "ignores the choice of the seed" in report["headline"]
    assert report["heldout"]["chosen_on"]["count"] == len(report["heldout"]["chosen_on"]["ids"])
    assert report["headline"][:40] in (tmp_path / "out/compare/report.html").read_text()


@pytest.mark.full
def test_a_grid_with_a_killed_driver_ends_in_the_same_report(tmp_path: Path, model: str) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    result = _kill_and_finish(killed, _prepare(killed, model, **GRID), cells=5)
    undisturbed = raystill("compare", str(_prepare(whole, model, **GRID)))
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert _measured(_report(killed)) == _measured(_report(whole))
    assert result["report"]["headline"] == _report(whole)["headline"]


def _kill_and_finish(folder: Path, run: Path, cells: int) -> dict[str, Any]:
    """Kill a comparison between two cells and rerun it. Returns its JSON; fails if the rerun repeats a finished cell."""
    compare = folder / "out/compare"

    def finished() -> dict[str, int]:
        return {path.parents[1].name: path.stat().st_mtime_ns for path in compare.glob(f"cells/*/heldout-*/{MANIFEST}")}

    with running("compare", str(run), log=folder / "log") as process:
        family = Family(process.pid)
        # Until one cell is done and another has started.
        while not finished() or len(list(compare.glob("cells/*"))) == len(finished()):
            family.look()
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        before = finished()
        early = _report(folder)
        sigkill(family.look())
        process.wait()
    assert 1 <= len(before) < cells
    assert early["missing"], "missing cells must be listed"
    assert not (compare / MANIFEST).exists()

    again = raystill("compare", str(run), "--json")
    assert again.returncode == 0, again.stderr
    after = finished()
    assert {name: after[name] for name in before} == before, "the rerun repeated a finished cell"
    assert len(after) == cells
    return dict(json.loads(again.stdout))
