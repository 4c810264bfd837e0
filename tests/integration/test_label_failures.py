"""One bad row costs that row; an engine that cannot start says why in the last line."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.commands import raystill
from tests.support.local_ray import shared_environment
from tests.support.run_files import label_run, word_rows, write_run_file

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TASK = '''
from pipelines.tasks.arithmetic import Arithmetic


class Fragile(Arithmetic):
    """Raises on one row in a thousand in each of its functions."""

    name = "fragile"

    def read(self, row):
        self._fail(row["id"], 101)
        return super().read(row)

    def question(self, example):
        self._fail(example.id, 202)
        return super().question(example)

    def parse(self, text, example):
        self._fail(example.id, 303)
        return super().parse(text, example)

    def gives_away(self, answer, example):
        self._fail(example.id, 404)
        return super().gives_away(answer, example)

    def _fail(self, row_id, number):
        if int(row_id[1:]) % 1000 == number:
            raise KeyError(row_id)
'''


def test_a_raising_task_costs_its_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(TASK)
    teacher = {"filters": {"drop_giveaways": True}}
    run = label_run(tmp_path, word_rows(2000), teacher, task=str(tmp_path / "fragile.py"))
    result = raystill("label", str(write_run_file(tmp_path, run)), "--json", env=shared_environment())
    assert result.returncode == 0, result.stderr[-3000:]
    rejects = pq.read_table(tmp_path / "out/labels/rejects").to_pylist()
    raised = [row for row in rejects if row["detail"].startswith("the task raised KeyError: 'r")]
    assert Counter((row["id"], row["reason"]) for row in raised) == {
        (f"r{row}", reason): 1
        for start, reason in ((101, "bad_input"), (202, "bad_input"), (303, "unparsable"), (404, "unparsable"))
        for row in (start, start + 1000)
    }
    assert all(row["detail"].endswith("in _fail)") and "(fragile.py, line " in row["detail"] for row in raised)
    counts = json.loads(result.stdout)["stages"][0]["counts"]
    assert counts["read"] == 2000 == counts["accepted"] + counts["rejected"]


def model_damaged(how: str, folder: Path) -> None:
    if how in ("weights", "header"):
        weights = next(folder.glob("*.safetensors"))
        weights.write_bytes(
            weights.read_bytes()[:100_000] if how == "weights" else b"\xff" * 9 + weights.read_bytes()[:1000]
        )
    if how == "architecture":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**config, "architectures": ["NopeForCausalLM"], "model_type": "nope"})
        )


SETTINGS = {"length": {"max_model_len": 100_000}, "memory": {"cpu_kv_cache_gib": 100_000}}
CAUSES = [
    ("length", "max_model_len (100000) is greater than", "Lower teacher.vllm.max_model_len"),
    ("folder", "the folder does not exist", "an existing model folder"),
    ("weights", "SafetensorError", "The weights of teacher.model are damaged"),
    ("header", "OverflowError", "The weights of teacher.model are damaged"),
    ("architecture", "nope", "teacher.model"),
    ("memory", "memory", "teacher.vllm"),
]


@pytest.mark.parametrize(
    ("how", "cause", "remedy"),
    [pytest.param(*cause, marks=() if cause[0] == "folder" else pytest.mark.full) for cause in CAUSES],
)
def test_an_engine_that_cannot_start_names_the_cause(
    tmp_path: Path, teacher_folder: Path, how: str, cause: str, remedy: str
) -> None:
    model = tmp_path / "model"
    if how != "folder":
        shutil.copytree(teacher_folder, model)
        model_damaged(how, model)
    engine = {"max_model_len": 512, "max_num_seqs": 4, **SETTINGS.get(how, {})}
    teacher = {"engine": "vllm", "model": str(model), "sampling": {"max_tokens": 16}, "vllm": engine}
    run = label_run(tmp_path, word_rows(8), teacher)
    result = raystill("label", str(write_run_file(tmp_path, run)), env=shared_environment())
    assert result.returncode in (1, 2)
    last = result.stderr.strip().splitlines()[-1]
    assert cause.lower() in last.lower(), result.stderr[-3000:]
    assert remedy in last, last
    assert "To change retry attempts" not in result.stderr
