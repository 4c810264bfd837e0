"""Commands on a terminal: it shows our own lines alone, and no process stays, however a command ends."""

import re
import signal
from functools import partial
from pathlib import Path

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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
CASES = [
    ("label", "done", "", 0),
    ("label", "failed", "", 1),
    ("label", "SIGINT", "rows/s", 130),
    ("label", "SIGTERM", "starting engine", 130),
    ("train", "done", "", 0),
    ("train", "failed", "", 1),
    ("train", "refused", "", 2),
    ("train", "SIGINT", "loss: ", 130),
    ("train", "SIGTERM", "starting workers", 130),
    ("evaluate", "done", "", 0),
    ("evaluate", "failed", "", 1),
    ("evaluate", "SIGINT", "examples/s", 130),
    ("evaluate", "SIGTERM", "starting workers", 130),
    ("serve", "failed", "", 1),
    ("serve", "SIGINT", "starting", 130),
    ("serve", "SIGINT", "Stop it with Ctrl-C", 0),
    ("serve", "SIGTERM", "Stop it with Ctrl-C", 0),
]
"""Command, end, what it shows when a signal interrupts it, exit code."""
IN_CI = ("train", "SIGINT")
FULL = [pytest.mark.full]

DURATION = r"[\d.]+ (ms|s|min|h)( \d\d (s|min))?"
PHASES = "starting engine|tokenising|starting workers|first step|exporting the student|writing the (manifest|report)"
CHECKPOINT = r"checkpoint of step [\d,]+"
STEP = rf"step \d+/\d+, loss: label [\d.]+, rationale [\d.]+(, {CHECKPOINT})?"
DETAILS = rf"[\d.]+% accepted, [\d.]+% rejected|{STEP}|{CHECKPOINT}|student('s rationales)?|untrained student"
PART = rf"[\d,]+(/[\d,]+)? (rows|tokens|examples)|[\d.]+ \w+/s|({PHASES}), {DURATION}|{DURATION} left|{DETAILS}"
BOARD = (
    rf"> (label|train|evaluate) +{DURATION}( +[━─]{{20}})?( +({PART})(, ({PART}))*)?|\w+ +{DURATION}  .*"
    rf"|\w+ +comes next|{DURATION} so far(, about {DURATION} left)?"
)
TABLE = r"[┏┡└][━┳╇─┴]+[┓┩┘]|[┃│].*[┃│]"
RESUME = (
    r"raystill: Interrupted\. (Finished work is kept; run the same command to resume"
    r"|There is no checkpoint yet; the same command starts over from step 0|The last checkpoint is of step [\d,]+; .*"
    r"|The same command resumes from the last checkpoint in \S+, if there is one)\."
)
STAGE = rf"sums: \w+ -> \S+/out|({BOARD})( *\^C)?|{TABLE}|{RESUME}|log: \S+\.log"
SCORES = (
    r"sums: 20 held-out examples|A student of .* held-out examples.*|report: \S+/report\.html"
    r"|teacher: the labels have none .*|majority label: `3`.*|(untrained )?student: transformers, float32, [\d.]+ m?s per example.*"
)
ADDRESS = r"http://127\.0\.0\.1:\d+"
ENDPOINT = (
    rf"sums at {ADDRESS}\. Stop it .*|curl -s {ADDRESS}/v1/predict -H '[^']+' -d '{{.*}}'"
    rf"|metrics {ADDRESS}/metrics|draining for at most .*"
)
OURS = {
    "label": rf"{STAGE}|raystill: 10 of the first 10 answers are rejected .*",
    "train": rf"{STAGE}|train: \d+ optimizer steps are few: .*|raystill: (training stopped: step 1 is not finite|\S+/labels).*",
    "evaluate": rf"{STAGE}|{SCORES}|raystill: evaluate \w+: failed after 0 of 20 examples .*",
    "serve": rf"serve: starting sums|(\^C)?({ENDPOINT}|raystill: (Interrupted\.|the endpoint does not start: .*))|log: \S+\.log",
}


def _label(folder: Path, end: str) -> RunConfig:
    """Rows of a failing run have no gold label; what the echo teacher says instead is no expression."""
    rows = [{key: row[key] for key in row if end != "failed" or key != "label"} for row in word_rows(40)]
    teacher = {"latency_s": 0.5, "vllm": {"max_num_seqs": 1}} if end.startswith("SIG") else {}
    labelling = {"first_rows": 10, "max_reject_share": 0.1}
    return label_run(folder, rows, teacher, name="sums", labelling=labelling)


def _train(folder: Path, end: str) -> RunConfig:
    if end != "refused":
        write_labels(folder / "out", label_rows(60))
    rate = 1e30 if end == "failed" else 1e-3
    training = {
        "workers": 1, "gpus_per_worker": 0, "zero_stage": 0, "precision": "fp32", "tokens_per_batch": 512, "learning_rate": rate,
        "epochs": 5000 if end.startswith("SIG") else 2,
    }  # fmt: skip
    student = {"model": make_model("encoder-decoder", folder / "model"), "init": {"kind": "random"}}
    return label_run(folder, word_rows(40), name="sums", training=training, student=student)


def _evaluate(folder: Path, end: str) -> RunConfig:
    base, student = (write_student(folder / name, "decoder-only") for name in ("base", "out/student"))
    if end == "failed":
        _damage(student)
    count = 5000 if end.startswith("SIG") else 20
    rows = [{"id": f"h{i}", "input": f"Tom has {i} pears.", "label": "4 - 1"} for i in range(count)]
    artifacts.write_corpus(folder / "test.jsonl", rows)
    evaluation = {"batch_size": 4, "max_new_tokens": 12, "engine": "transformers"}
    run = artifacts.make_run(folder, model=str(base), evaluation=evaluation, name="sums")
    labelled = [artifacts.label_row(f"t{i}", "1", "3") for i in range(4)]
    artifacts.write_student_manifest(student, run, artifacts.write_labels(folder / "out" / "labels", labelled))
    return run


def _serve(folder: Path, end: str) -> list[str]:
    student = write_student(folder / "student", "decoder-only")
    if end == "failed":
        _damage(student)
    settings = {"port": free_port(), "engine": "transformers", "replicas.min": 1, "replicas.max": 1}
    return [
        f"sums={student}",
        *(part for key, value in settings.items() for part in ("--set", f"serving.{key}={value}")),
    ]


def _damage(student: Path) -> None:
    weights = student / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def _before_signal(command: str, exit_code: int, ray: str, shown: str) -> None:
    """Of an endpoint: it answers, or its replica starts."""
    if command == "serve" and exit_code:
        wait_until(lambda: any("ServeReplica" in process for process in running_with(ray)))
    elif command == "serve":
        [url] = re.findall(r"sums at (http://\S+)\. Stop", shown)
        response = httpx.post(f"{url}/v1/predict", json={"inputs": ["Tom has 3 pears."]}, timeout=60.0)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("command", "end", "begun", "exit_code"),
    [pytest.param(*case, marks=FULL * (case[:2] != IN_CI)) for case in CASES],
)
def test_a_terminal_shows_our_lines_and_nothing_stays(
    tmp_path: Path, command: str, end: str, begun: str, exit_code: int
) -> None:
    env = environment() | {"RAYSTILL_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    if command == "serve":
        arguments = _serve(tmp_path, end)
    else:
        run = {"label": _label, "train": _train, "evaluate": _evaluate}[command](tmp_path, end)
        arguments = [str(write_run_file(tmp_path, run))]
    before = partial(_before_signal, command, exit_code, env["RAY_TMPDIR"])
    shown = on_terminal(command, *arguments, env=env, begun=begun, number=getattr(signal, end, 0), before=before)
    print(*shown.lines, sep="\n")
    wait_until_gone(env["RAY_TMPDIR"])
    foreign = [line for line in shown.lines if not re.fullmatch(OURS[command], line)]
    assert (shown.exit_code, foreign) == (exit_code, [])
    for log in re.findall(r"^log: (\S+)", "\n".join(shown.lines), re.MULTILINE):
        [of_ray] = re.findall(r"^Ray's logs.*: (\S+)", Path(log).read_text(), re.MULTILINE)
        assert any(Path(of_ray).iterdir())
