"""`raystill quickstart`: the whole chain on shipped data, then one request to the endpoint.

It writes the run file and the corpus into the user's folder and runs them from there, so that they can be read and changed.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.commands.staged import StagedRun
from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.runtime.durations import duration
from pipelines.runtime.terminal import say
from pipelines.storage.filesystems import join, shown

_STEPS = ("label", "train", "serve", "evaluate")
_EXPECTED_S = {"label": 85.0, "train": 100.0, "serve": 35.0, "evaluate": 45.0}
"""On two cores (docs/benchmarks.md); the board corrects them by what has ended here."""
_QUESTIONS: dict[str, str | dict[str, str]] = {
    "arithmetic": "Anne has 9 apples and gives Peter 4. How many apples has she left?",
    "nli": {
        "premise": "A person on a horse jumps over a broken down airplane.",
        "hypothesis": "A person is outdoors, on a horse.",
    },
}


@dataclass(frozen=True)
class EndpointAnswer:
    """The endpoint's answer to one question, for --json."""

    url: str
    ready_s: float
    """From the start of the endpoint until it takes requests."""
    latency_ms: float
    """Of the second request; the first one warms up."""
    request: dict[str, Any]
    response: dict[str, Any]


def prepare(output: str, recipe: str) -> Path:
    """Write the run file and the corpus into a folder, unless it has a run file. Returns the run file."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    shipped = importlib.resources.files("pipelines.recipes")
    run_file = folder / "run.yaml"
    if not run_file.exists():
        text = (shipped / f"{recipe}.yaml").read_text(encoding="utf-8")
        corpus = next(line.split()[-1] for line in text.splitlines() if line.startswith("# corpus:"))
        with importlib.resources.as_file(shipped / "corpora" / corpus) as source:
            shutil.copytree(source, folder / "corpus", dirs_exist_ok=True)
        temporary = folder / "run.yaml.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, run_file)
    return run_file


def check_task(run: RunConfig, run_file: Path) -> None:
    """Raise UserError if the user changed the run file to a task without a question for the endpoint."""
    if run.task not in _QUESTIONS:
        rule = f"must be {' or '.join(_QUESTIONS)}: the quickstart has a question for these"
        raise UserError(f"task {run.task} in {run_file}", rule, f"Run it with `raystill run {run_file}`.")


def link_teacher(folder: Path) -> None:
    """Link FOLDER/teacher to the embedded teacher in the cache."""
    from pipelines.students.embedded_teacher import embedded_teacher

    link, target = folder / "teacher", embedded_teacher().absolute()
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)


def run_quickstart(output: str, recipe: str, overrides: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """The command: label and train, ask the endpoint, evaluate; print summaries, the accuracy table and what happened."""
    from cluster.commands.stages import print_report, read_report
    from cluster.commands.summary import print_summary
    from cluster.session.command_log import command_log

    began = time.monotonic()
    with command_log("quickstart", verbose=verbose):
        run_file = prepare(output, recipe)
        link_teacher(run_file.parent)
        run = load_run(run_file, overrides)
        check_task(run, run_file)
        say(f"run file {run_file}, artifacts in {run.output}; teacher ready after {duration(time.monotonic() - began)}")
        staged = StagedRun(run, _STEPS, _EXPECTED_S)
        answer, seconds = _execute(run, staged, verbose=verbose)
    seconds["total"] = time.monotonic() - began
    report = read_report(run)
    extra = {
        "report": report.model_dump(mode="json"),
        "endpoint": asdict(answer),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    print_summary(staged.summaries, as_json=as_json, extra=extra)
    if not as_json:
        print_report(run, report)
        print("\n".join([*_answer_lines(answer), *_end_lines(run, run_file, staged, seconds["total"])]))


def _execute(run: RunConfig, staged: StagedRun, *, verbose: bool) -> tuple[EndpointAnswer, dict[str, float]]:
    """All steps on one Ray. The endpoint's answer, which is printed at once, and the seconds until Ray had started and until the answer."""
    from cluster.commands.stages import stages_to_execute
    from cluster.environment import ray_address
    from cluster.session.start import ray_session
    from pipelines.checks import check_run
    from pipelines.run import STAGES
    from serving.deploy.port import check_port

    check_run(run, STAGES)
    work, began = stages_to_execute(run, STAGES), time.monotonic()
    if ray_address() is None:
        check_port(run.serving.host, run.serving.port)  # the stages before it take minutes
    with staged.shown(), ray_session(run, [*work, "serve"], verbose=verbose):
        seconds = {"ray_start": time.monotonic() - began}
        staged.run(("label", "train"))
        with staged.step("serve"):
            answer = _query_endpoint(run, _QUESTIONS[run.task])
        seconds["first_answer"] = time.monotonic() - began
        say("\n".join(_answer_lines(answer)))
        staged.run(("evaluate",))
    return answer, seconds


def _answer_lines(answer: EndpointAnswer) -> Iterator[str]:
    yield f"endpoint ready in {duration(answer.ready_s)}, answered in {duration(answer.latency_ms / 1000)}:"
    yield f"  POST {answer.url}/v1/predict {json.dumps(answer.request, ensure_ascii=False)}"
    yield f"  -> {json.dumps(answer.response, ensure_ascii=False)}"


def _end_lines(run: RunConfig, run_file: Path, staged: StagedRun, seconds: float) -> Iterator[str]:
    """What happened, and what comes next."""
    took = {summary.stage: duration(summary.seconds) for summary in staged.summaries}
    yield f"What happened in {duration(seconds)}:"
    yield f"  label ({took['label']}): a teacher answered each example with a rationale and a label."
    yield f"  train ({took['train']}): a student, the teacher's first layers, learned both."
    yield "  serve: Ray Serve answered the question above with the student."
    yield f"  evaluate ({took['evaluate']}): the report compares student, teacher, untrained student and majority label."
    yield "Next:"
    yield f"  raystill serve {shown(join(run.output, 'student'))}"
    yield f"  raystill run {run_file} --replace    # after you have changed the run file or the corpus"


def _query_endpoint(run: RunConfig, question: str | dict[str, str]) -> EndpointAnswer:
    """Start the endpoint, send one question twice, stop the endpoint."""
    import httpx

    from cluster.environment import ray_address
    from serving.deploy.rollout import serve_students

    began, ray_ends = time.monotonic(), ray_address() is None
    endpoint = serve_students({run.name: join(run.output, "student")}, run.serving, ray_ends=ray_ends)
    try:
        ready = time.monotonic() - began
        request = {"inputs": [question], "rationale": METHODS[run.student.method].separates_rationale}
        with httpx.Client(base_url=endpoint.url, timeout=run.serving.request_timeout_s) as client:
            for _ in range(2):
                sent = time.monotonic()
                response = client.post("/v1/predict", json=request)
                response.raise_for_status()
                latency = time.monotonic() - sent
        return EndpointAnswer(endpoint.url, ready, 1000 * latency, request, response.json())
    finally:
        endpoint.shutdown(ray_ends=ray_ends)
