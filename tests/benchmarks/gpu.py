"""What a GPU is measured for, in one command: labelling against bare vLLM, training against the reference trainer, serving against
`vllm serve` and FastAPI around `generate`. Each measurement is a tool of this folder in its own process, with a time limit. If one fails,
the others still run, and the exit code is 1. Writes one table and `benchmarks-out/gpu.json`. Needs the checkout only, no network.

    python -m tests.benchmarks.gpu --peak-tflops 989       adds MFU, if this is the peak of the GPU's bf16
    python -m tests.benchmarks.gpu --only train            one measurement
    python -m tests.benchmarks.gpu --dry-run               all of them on CPUs, with tiny models; the figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.benchmarks.results import OUT, publish

NAMES = ("label", "train", "serve-t5", "serve-llama")
_STOP_S = 60.0
Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A tool with its arguments."""

    name: str
    module: str
    arguments: list[str]
    result: str
    """Name of its file in benchmarks-out."""
    rows: Callable[[dict[str, Any]], Iterator[Row]]
    """The rows of the common table, from that file."""


def measurements(options: argparse.Namespace, output: Path) -> list[Measurement]:
    """All measurements. `output`: folder for students."""
    if options.dry_run:
        llama, t5 = "tiny-llama", "tiny-t5"
        label = "--rows 12 --max-tokens 8 --max-num-seqs 8"
        train = "--rows 24 --batch 3 --steps 8 --budget 1536 --micro 2048 --peak-tflops 1"
        serve_t5 = serve_llama = "--clients 1 2 --seconds 3 --batch 4"
    else:
        llama, t5 = "smollm2-135m", "t5-small-shape"
        label = "--gpu --rows 40000 --max-num-seqs 1024"
        train = "--gpu --rows 6000 --batch 64 --steps 60 --budget 65536 --micro 65536 --compile"
        serve_t5 = "--gpu --weights bfloat16 --clients 1 8 32 64 --seconds 15 --batch 64"
        serve_llama = "--gpu --weights bfloat16 --clients 1 8 32 64 256 --seconds 15 --batch 256"
        if options.peak_tflops:
            train += f" --peak-tflops {options.peak_tflops}"
    pairs = f" --pairs {1 if options.dry_run else options.pairs}"
    shapes = f" --shape {t5} --shape {llama}"

    def served(name: str, shape: str, arguments: str) -> Measurement:
        given = [str(output), "--student", shape, *arguments.split()]
        return Measurement(name, "tests.benchmarks.serve_load", given, f"serve_load_{shape}", serve_rows)

    return [
        Measurement("label", "tests.benchmarks.label_overhead", (label + pairs).split(), "label_overhead", label_rows),
        Measurement(
            "train", "tests.benchmarks.train_speed", (train + pairs + shapes).split(), "train_speed", train_rows
        ),
        served("serve-t5", t5, serve_t5),
        served("serve-llama", llama, serve_llama),
    ]


def label_rows(found: dict[str, Any]) -> Iterator[Row]:
    ours, theirs = (median([row[f"{who} rows/s"] for row in found["rows"]]) for who in ("ours", "bare"))
    yield row_of("labelled rows/s", "bare vLLM", ours, theirs) | {"ratio": found["median_ratio"]}


def train_rows(found: dict[str, Any]) -> Iterator[Row]:
    for model in dict.fromkeys(row["model"] for row in found["rows"]):
        of_model = [row for row in found["rows"] if row["model"] == model]
        figures = [key for key in of_model[0] if key.endswith((" tok/s", " MFU"))]
        middle = {key: median([row[key] for row in of_model]) for key in figures}
        for regime in ("same step", "budget"):
            what = f"trained tokens/s, {model}, {regime}"
            row = row_of(what, "reference trainer", middle[f"{regime} tok/s"], middle["reference tok/s"])
            row["ratio"] = median([one[f"{regime} ratio"] for one in of_model])
            if "reference MFU" in middle:
                row |= {"our MFU": middle[f"{regime} MFU"], "its MFU": middle["reference MFU"]}
            yield row


def serve_rows(found: dict[str, Any]) -> Iterator[Row]:
    student = found["benchmark"].removeprefix("serve_load_")
    servers = {(row["server"], row["clients"]): row for row in found["rows"]}
    for (name, clients), other in servers.items():
        if not name.startswith("raystill"):
            ours = servers["raystill serve", clients]
            what = f"answers/s, {student}, {clients} clients"
            row = row_of(what, name, ours["requests_per_s"], other["requests_per_s"])
            yield row | {"our p50 ms": ours["p50_ms"], "its p50 ms": other["p50_ms"]}


def row_of(what: str, against: str, ours: float, theirs: float) -> Row:
    return {"measured": what, "against": against, "ours": ours, "its": theirs, "ratio": ours / theirs if theirs else ""}


def failure(one: Measurement, limit_s: float, environment: dict[str, str]) -> str | None:
    """Run a tool. Returns why it failed; its output is in benchmarks-out/NAME.log."""
    log = OUT / f"gpu-{one.name}.log"
    (OUT / f"{one.result}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", one.module, *one.arguments]
    print(f"{one.name}: python {' '.join(command[1:])}; log: {log}", flush=True)
    with log.open("w") as output:
        variables = {**os.environ, **environment}
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=variables)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"took longer than {limit_s:g} s"
        finally:
            end(process)
    if status:
        lines = log.read_text(errors="replace").strip().splitlines()
        print("\n".join(lines[-20:]), flush=True)
        return f"exit code {status}: {lines[-1] if lines else 'no output'}"
    return None


def end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a tool's session. Commands need SIGTERM and some seconds to stop their Ray."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = []
        for one in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(one.pid) == process.pid:
                    one.send_signal(number)
                    left.append(one)
        psutil.wait_procs(left, timeout=_STOP_S)
    process.wait()


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--pairs", type=int, default=3, help="of label and train")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for each measurement")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bf16; adds MFU")
    parser.add_argument("--dry-run", action="store_true", help="on CPUs with tiny models")
    return parser.parse_args(given)


def has_gpu() -> bool:
    """Whether torch finds a GPU. It looks in another process: a CUDA context here would take memory from the tools."""
    question = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], check=False).returncode == 0


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    if not options.dry_run and not has_gpu():
        sys.exit("torch.cuda.is_available() is false: there is no GPU here that torch can use. Try --dry-run.")
    OUT.mkdir(exist_ok=True)
    environment = {"HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    if options.dry_run:
        # Threads of a tiny model wait for each other. On busy cores they must not wait actively.
        environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    rows: list[Row] = []
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as output:
        for one in measurements(options, Path(output)):
            if one.name in options.only:
                begin = time.monotonic()
                why = failure(one, options.limit, environment)
                if why:
                    failed[one.name] = why
                else:
                    results[one.name] = json.loads((OUT / f"{one.result}.json").read_text())
                    rows += one.rows(results[one.name])
                print(f"{one.name}: {why or 'done'}, {time.monotonic() - begin:.0f} s", flush=True)
    title = "gpu, dry run: the figures mean nothing" if options.dry_run else "gpu"
    unprinted = {"dry_run": options.dry_run, "peak_tflops": options.peak_tflops, "failed": failed, "results": results}
    publish("gpu", rows, title=title, unprinted=unprinted)
    if failed:
        sys.exit("\n".join(f"{name} failed: {why}" for name, why in failed.items()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running tool too
    main()
