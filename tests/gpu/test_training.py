"""Training on one GPU with NCCL, every ZeRO stage and compiled layers: losses equal those of the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.storage.store import Store
from pipelines.train.checks import token_settings
from pipelines.train.data.tokenise import tokenise
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

STEPS = 10
# A CUDA context in pytest's process would take memory from other tests' commands.
TRAIN = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from pipelines.storage.manifest import Store
from pipelines.config.load import parse_run
from pipelines.students.init import initial_student
from pipelines.train.data.token_table import Tokens
from pipelines.train.engine.worker import Worker
from pipelines.train.engine.deepspeed_engine import prepare_deepspeed

tree, folder, steps, gpu = json.load(sys.stdin)
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
dist.init_process_group("nccl" if gpu else "gloo", init_method=f"file://{folder}/rendezvous{gpu}", rank=0, world_size=1)
prepare_deepspeed(gpu=gpu)
run = parse_run(tree)
worker = Worker(run, initial_student(run.student, 0)[0], Tokens(Store(tree["output"] + "/tokens"), Path(folder)), 0, 1)
history = [worker.step(step)["loss"] for step in range(steps)]
print("FOUND " + json.dumps({"backend": dist.get_backend(), "device": str(worker.engine.device), "losses": history}))
"""


def trained(output: Path, folder: Path, gpu: bool, **training: object) -> dict[str, object]:
    family = "decoder-only"
    run = make_run(output, str(output / family), training={"workers": 1, "gpus_per_worker": int(gpu), **training})
    tree = run.model_dump(mode="json")
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], input=json.dumps([tree, str(folder), STEPS, gpu]), capture_output=True, text=True,
        check=False, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))[6:]))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    if subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() != "True":
        pytest.skip("torch.cuda.is_available() is false: there is no GPU here that torch can use")
    output = tmp_path_factory.mktemp("nccl")
    write_labels(output, label_rows(60))
    make_model("decoder-only", output / "decoder-only")
    settings = token_settings(make_run(output, str(output / "decoder-only")))
    tokenise(Store(str(output / "labels")), settings, Store(str(output / "tokens")))
    return output


@pytest.mark.parametrize("stage", range(4))
def test_a_group_of_one_over_nccl_learns_what_the_cpu_learns(output: Path, tmp_path: Path, stage: int) -> None:
    there = trained(output, tmp_path / "gpu", True, zero_stage=stage)
    here = trained(output, tmp_path / "cpu", False, zero_stage=stage)
    assert (there["backend"], there["device"]) == ("nccl", "cuda:0")
    assert there["losses"] == pytest.approx(here["losses"], rel=1e-3)


def test_compiled_layers_learn_the_same(output: Path, tmp_path: Path) -> None:
    plain = trained(output, tmp_path / "plain", True, zero_stage=1, precision="bf16")
    compiled = trained(output, tmp_path / "compiled", True, zero_stage=1, precision="bf16", compile=True)
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=2e-2)
