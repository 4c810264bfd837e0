"""Commands on a terminal: it shows our own lines alone, and no process is left, however a command ends."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.config import RunConfig
from tests.support import artifacts
from tests.support.commands import environment
from tests.support.endpoints import free_port, wait_until
from tests.support.on_terminal import on_terminal, running_with, wait_until_gone
from tests.support.run_files import label_run, word_rows, write_run_file
from tests.support.tiny_runs import label_rows, make_model, write_labels
from tests.support.tiny_students import write_student

pytestmark = pytest.mark.integration
TRAINING = {
    "workers": 1, "gpus_per_worker": 0, "zero_stage": 0, "precision": "fp32", "tokens_per_batch": 512,
}  # fmt: skip
UNFINISHED = {"label": "starting engine", "train": "step ", "evaluate": "examples/s", "serve": "starting"}
"""What a command shows once it does what a signal is to interrupt."""
CODES = {"done": 0, "failed": 1, "refused": 2, "SIGINT": 130, "SIGTERM": 130}
OURS = re.compile(r"x")


def _label(folder: Path, end: str) -> RunConfig:
    """Rows of a failing run have no gold label, which the echo teacher then cannot write."""
    rows = [{key: row[key] for key in row if end != "failed" or key != "label"} for row in word_rows(40)]
    teacher = {"latency_s": 0.5, "vllm": {"max_num_seqs": 1}} if end.startswith("SIG") else {}
    return label_run(
        folder, rows, teacher, name="sums", labelling={"first_rows": 10, "max_reject_share": 0.1}
    )


def _train(folder: Path, end: str) -> RunConfig:
    write_labels(folder / "out", label_rows(60))
    training = TRAINING | {"epochs": 5000 if end.startswith("SIG") else 2, "learning_rate": 1e30 if end == "failed" else 1e-3}
    student = {"model": make_model("encoder-decoder", folder / "model"), "init": {"kind": "random"}}
    return label_run(folder, word_rows(40), name="sums", training=training, student=student)


def _evaluate(folder: Path, end: str) -> RunConfig:
    student = write_student(folder / "out" / "student", "decoder-only")
    count = 5000 if end.startswith("SIG") else 20
    rows = [{"id": f"h{i}", "input": f"Tom has {i} pears.", "label": "4 - 1"} for i in range(count)]
    artifacts.write_corpus(folder / "test.jsonl", rows)
    evaluation = {"batch_size": 4, "max_new_tokens": 12, "engine": "transformers"}
    run = artifacts.make_run(folder, model=str(student), evaluation=evaluation, name="sums")
    labels = artifacts.write_labels(folder / "out" / "labels", [artifacts.label_row(f"t{i}", "1", "3") for i in range(4)])
    artifacts.write_student_manifest(student, run, labels)
    if end == "failed":
        _damage(student)
    return run


def _damage(student: Path) -> None:
    weights = student / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def _arguments(folder: Path, command: str, end: str) -> list[str]:
    if command == "serve":
        student = write_student(folder / "student", "decoder-only")
        if end == "failed":
            _damage(student)
        settings = {"port": free_port(), "engine": "transformers", "replicas.min": 1, "replicas.max": 1}
        changes = [part for key, value in settings.items() for part in ("--set", f"serving.{key}={value}")]
        return [command, f"sums={student}", *changes]
    made = {"label": _label, "train": _train, "evaluate": _evaluate}[command](folder, end)
    return [command, str(write_run_file(folder, made))]


def _ask(shown: str) -> None:
    [url] = re.findall(r"sums at (http://\S+)\. Stop", shown)
    response = httpx.post(f"{url}/v1/predict", json={"inputs": ["Tom has 3 pears."]}, timeout=60.0)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("end", list(CODES))
@pytest.mark.parametrize("command", list(UNFINISHED))
def test_a_terminal_shows_our_lines_and_nothing_stays(tmp_path: Path, command: str, end: str) -> None:
    env = environment() | {"RAYSTILL_CACHE": str(tmp_path / "cache")}
    shown = on_terminal(*_arguments(tmp_path, command, end), env=env, begun=UNFINISHED[command] if end.startswith("SIG") else "", number=getattr(signal, end, 0), before=lambda _: None)
    print(*shown.lines, sep="\n")
    for log in (tmp_path / "cache" / "logs").glob("*"):
        print("LOG", log.read_text()[-1500:])
    wait_until_gone(env["RAY_TMPDIR"])
    assert (shown.exit_code, [line for line in shown.lines if not OURS.fullmatch(line)]) == (CODES[end], [])
