"""The chain on one GPU: a vLLM teacher, DeepSpeed over NCCL, evaluation and the endpoint use it in turn."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import recipes
from pipelines.data.schema import LABEL
from pipelines.students.decoding import Student
from tests.support.commands import running, succeed, url_of
from tests.support.endpoints import free_port, stated
from tests.support.tiny_students import tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]  # includes compilation and CUDA graph capture

GPUS = 1
ROWS = 200
KV_CACHE = 0.4  # share of the GPU's memory that the teacher takes
CONTEXT_MIB = 200  # what CUDA takes of a GPU for a process that uses it, and a CPU process does not, is above this
WORD_PROBLEMS = Path(recipes.__file__).parent / "corpora" / "word_problems"


@dataclass(frozen=True)
class Chain:
    """A finished `raystill run`: label, train and evaluate in one Ray session."""

    run_file: Path
    out: Path
    stages: dict[str, Any]
    report: dict[str, Any]
    peak_mib: int
    """Peak GPU memory."""

    def predictions(self) -> list[dict[str, Any]]:
        return list(pq.read_table(self.out / "report/predictions.parquet").to_pylist())


@pytest.fixture(scope="module")
def gpu_memory_mib() -> int:
    """Memory of the GPU. torch runs in another process: a CUDA context here would take memory from the commands."""
    question = "import torch; print(torch.cuda.is_available())"
    check = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    if check.stdout.strip() != "True":
        pytest.skip("torch.cuda.is_available() is false: there is no GPU here that torch can use")
    return memory_mib("total")


@pytest.fixture(scope="module")
def chain(gpu_memory_mib: int, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    from pipelines.students.embedded_teacher import embedded_teacher

    folder, model = tmp_path_factory.mktemp("chain"), str(embedded_teacher())
    run = {
        "name": "gpu",
        "output": str(folder / "out"),
        "task": "arithmetic",
        "corpus": {"train": str(WORD_PROBLEMS / "train.jsonl"), "test": str(WORD_PROBLEMS / "test.jsonl"), "limit": ROWS},
        "teacher": {"engine": "vllm", "model": model, "gpus_per_replica": GPUS, "sampling": {"max_tokens": 64},
                    "vllm": {"max_model_len": 1024, "gpu_memory_utilization": KV_CACHE}},
        "student": {"model": model, "init": {"kind": "first-layers", "layers": 4}},
        "training": {"workers": 1, "gpus_per_worker": GPUS, "zero_stage": 2, "precision": "bf16", "epochs": 3,
                     "tokens_per_batch": 2048, "tokens_per_micro_batch": 4096, "learning_rate": 1e-3},
        "evaluation": {"batch_size": 64, "max_new_tokens": 16, "gpus_per_worker": GPUS},
        "serving": {"replicas": {"min": 1, "max": 1}, "gpus_per_replica": GPUS, "port": free_port()},
    }  # fmt: skip
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run, sort_keys=False))
    with memory_taken() as taken:
        summary = stage("run", file)
    stages = {stage["stage"]: stage for stage in summary["stages"]}
    return Chain(file, folder / "out", stages, summary["report"], max(taken))


def stage(command: str, run_file: Path, *changes: str) -> dict[str, Any]:
    return succeed(command, str(run_file), *(part for change in changes for part in ("--set", change)))


def memory_mib(kind: str) -> int:
    """`total` or `used` memory of the GPU that Ray takes first."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["nvidia-smi", f"--id={first}", f"--query-gpu=memory.{kind}", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


@contextmanager
def memory_taken() -> Iterator[list[int]]:
    """Readings during the block of the GPU memory in use, in MiB above what was in use before."""
    before, readings, over = memory_mib("used"), [0], threading.Event()

    def read() -> None:
        while not over.wait(0.1):
            readings.append(memory_mib("used") - before)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield readings
    finally:
        over.set()
        thread.join()


def other_output(chain: Chain, folder: Path) -> str:
    """Override for another output with the same labels."""
    shutil.copytree(chain.out / "labels", folder / "labels")
    return f"output={folder}"


def test_the_teacher_labels_on_the_gpu(chain: Chain, gpu_memory_mib: int) -> None:
    counts = chain.stages["label"]["counts"]
    assert counts["read"] == ROWS == counts["accepted"] + counts["rejected"]
    heldout = counts["heldout"]
    assert heldout["read"] == ROWS == heldout["answered"] + heldout["unanswered"]
    assert counts["accepted"] > 0.7 * ROWS
    assert counts["gold"]["agreeing"] > 0.1 * ROWS, "a teacher that reads the question must be right more often"
    found = [*chain.out.glob("labels/data/*.parquet"), *chain.out.glob("labels/rejects/*.parquet")]
    ids = Counter(i for part in found for i in pq.read_table(part)["id"].to_pylist())
    assert len(ids) == ROWS
    assert set(ids.values()) == {1}
    assert pq.read_table(chain.out / "labels/data").schema.equals(LABEL)
    assert chain.peak_mib > 0.9 * KV_CACHE * gpu_memory_mib, "the engine did not run on this GPU"


def test_the_student_learns_in_bf16_with_zero_2(chain: Chain) -> None:
    training = chain.stages["train"]["training"]
    details = json.loads((chain.out / "student/manifest.json").read_text())["details"]
    assert (training["world_size"], training["zero_stage"], training["precision"]) == (1, 2, "bf16")
    # Master weights and two moments of 4 bytes each.
    assert training["optimizer_bytes_per_rank"] == [pytest.approx(12 * details["parameters"], rel=1e-3)]
    for part in ("label", "rationale"):
        assert training["loss"][part]["last"] < 0.7 * training["loss"][part]["first"]
        assert training["loss"]["validation"]["after"][part] < 0.8 * training["loss"]["validation"]["before"][part]
    systems = {system["name"]: system for system in chain.report["systems"]}
    assert {"student", "untrained", "teacher", "majority"} == set(systems)
    assert systems["student"]["total"] == ROWS
    assert systems["student"]["correct"] > systems["untrained"]["correct"]


def test_the_gpu_trains_as_the_cpu_does(chain: Chain, tmp_path: Path) -> None:
    """float32 on the CPU against bf16 on the GPU: the same data in the same order, and no dropout."""
    on_cpu = stage(
        "train", chain.run_file, other_output(chain, tmp_path), "training.gpus_per_worker=0", "training.precision=fp32"
    )  # fmt: skip
    expected, found = (stage["training"] for stage in (on_cpu["stages"][0], chain.stages["train"]))
    assert found["steps"] == expected["steps"]
    for when, tolerance in (("before", 0.01), ("after", 0.1)):
        losses, wanted = (training["loss"]["validation"][when] for training in (found, expected))
        assert losses == pytest.approx(wanted, rel=tolerance), when


def test_the_gpu_answers_as_the_cpu_does(chain: Chain) -> None:
    rows = chain.predictions()[:40]
    student = Student.load(chain.out / "student")
    expected = student.answer([row["input"] for row in rows], "label", 16)
    assert len({decoded.text for decoded in expected}) > 5, "answers must differ for a meaningful comparison"
    same = [(row, d) for row, d in zip(rows, expected, strict=True) if row["student_text"] == d.text]
    assert len(same) >= 39, "in float32, only ties may differ"
    assert [row["student_confidence"] for row, _ in same] == pytest.approx([d.confidence for _, d in same], rel=0.01)


def test_an_encoder_decoder_student_runs_on_the_gpu(chain: Chain, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("encoder-decoder")
    tiny_model("encoder-decoder", len(tokenizer)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    changes = [other_output(chain, tmp_path / "out"), f"student.model={tmp_path / 't5'}", "student.init={kind: random}"]
    with memory_taken() as training:
        trained = stage("train", chain.run_file, *changes)["stages"][0]["training"]
    with memory_taken() as answering:
        report = stage("evaluate", chain.run_file, *changes)["report"]
    assert min(max(training), max(answering)) > CONTEXT_MIB
    parameters = json.loads((tmp_path / "out/student/manifest.json").read_text())["details"]["parameters"]
    assert trained["optimizer_bytes_per_rank"] == [pytest.approx(12 * parameters, rel=0.01)]
    for part in ("label", "rationale"):
        assert trained["loss"][part]["last"] < 0.8 * trained["loss"][part]["first"]
    student = next(system for system in report["systems"] if system["name"] == "student")
    assert student["total"] == ROWS
    assert student["output_tokens"] >= ROWS


def test_the_endpoint_answers_from_the_gpu(chain: Chain, tmp_path: Path) -> None:
    rows = chain.predictions()[:8]
    log = tmp_path / "log"
    arguments = ["serve", f"gpu={chain.out / 'student'}", "--run", str(chain.run_file), "--json"]
    with memory_taken() as taken, running(*arguments, log=log) as process:
        url = url_of(process, log)
        body = {"inputs": [row["input"] for row in rows], "rationale": True}
        response = httpx.post(f"{url}/v1/predict", json=body, timeout=60)
        assert response.status_code == 200, response.text
        predictions = response.json()["predictions"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    assert [p["label"] for p in predictions] == [stated(row["student_text"]) for row in rows]
    assert all(p["rationale"] for p in predictions)
    assert max(taken) > CONTEXT_MIB
