"""Two students, one of each family, behind a real endpoint: Ray Serve, HTTP, CTranslate2 and vLLM in the replicas."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Student
from tests.support.endpoints import free_port, stated, wait_until
from tests.support.k8s.dashboards import SERVING, metrics_read
from tests.support.metrics import exported, total
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
QUEUE = 32


@dataclass
class Running:
    """The endpoint under test, and the students' folders by model name."""

    client: httpx.Client
    folders: dict[str, Path]
    refused: list[httpx.Response]
    woken: list[httpx.Response]

    def predict(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/predict", json=body)


@pytest.fixture(scope="module")
def running(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The endpoint, started from zero replicas by its first requests. Some of them find the queue full."""
    from serving.deploy.rollout import serve_students

    root = tmp_path_factory.mktemp("students")
    folders = {
        "t5": write_student(root / "t5", "encoder-decoder"),
        "llama": write_student(root / "llama", "decoder-only", method="finetune", width=256),
    }
    serving = ServingConfig(
        port=free_port(), replicas=ReplicasConfig(min=0, max=1), max_new_tokens=8, max_batch_size=8, target_ongoing_requests=4,
        batch_wait_s=0.05, max_queued_requests=QUEUE, request_timeout_s=240.0, access_log=True,
    )  # fmt: skip
    endpoint = serve_students({name: str(folder) for name, folder in folders.items()}, serving)
    assert endpoint.models == ("t5", "llama")
    with httpx.Client(base_url=endpoint.url, timeout=250.0) as client, ThreadPoolExecutor(4) as pool:
        sent = []
        # The first one fills the places, the second the queue, the third finds no room.
        for name, inputs in (("t5", QUEUE), ("t5", QUEUE), ("t5", 1), ("llama", QUEUE)):
            body = {"model": name, "inputs": [TEXTS[0]] * inputs, "priority": "bulk"}
            sent.append(pool.submit(client.post, "/v1/predict", json=body))
            # Two simultaneous requests could each take half of the queue, and both be refused.
            time.sleep(0.5)
        first = [request.result() for request in sent]
        refused, woken = ([r for r in first if r.is_error == bad] for bad in (True, False))
        yield Running(client, folders, refused, woken)
    began = time.monotonic()
    endpoint.shutdown()
    assert time.monotonic() - began < 15.0
    assert_nothing_serves(endpoint.url)


def assert_nothing_serves(url: str) -> None:
    import ray
    from ray import serve

    assert serve.status().applications == {}
    assert [actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == "serve"] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def test_students_wake_from_zero_and_a_full_queue_is_refused(running: Running) -> None:
    models = running.client.get("/v1/models").json()["data"]
    assert [(m["id"], m["engine"]) for m in models] == [("t5", "ctranslate2"), ("llama", "vllm")]
    assert [r.json()["model"] for r in running.woken] == ["t5", "t5", "llama"]
    assert [len(r.json()["predictions"]) for r in running.woken] == [QUEUE, QUEUE, QUEUE]
    assert [r.status_code for r in running.refused] == [503]
    assert running.refused[0].json()["error"]["code"] == "queue_full"
    assert int(running.refused[0].headers["retry-after"]) >= 1


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_the_endpoint_answers_as_the_student_does(running: Running, name: str) -> None:
    student = Student.load(running.folders[name])
    response = running.predict(model=name, inputs=[*TEXTS[:3], {"input": TEXTS[3]}])
    assert response.status_code == 200, response.text
    body = response.json()
    expected = student.answer(TEXTS[:4], "label", 8)
    assert [p["label"] for p in body["predictions"]] == [stated(d.text) for d in expected]
    confidences = [p["confidence"] for p in body["predictions"]]
    assert confidences == pytest.approx([d.confidence for d in expected], rel=1e-3)
    used = sum(d.prompt_tokens for d in expected), sum(d.output_tokens for d in expected)
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == used


def test_a_bad_input_costs_only_its_own_answer(running: Running) -> None:
    body = running.predict(model="t5", inputs=[TEXTS[0], "apples " * 200, {"input": ""}, TEXTS[0]]).json()
    first, long, empty, last = body["predictions"]
    assert first["label"] == last["label"]
    assert [long["error"]["code"], empty["error"]["code"]] == ["input_too_long", "invalid_field"]
    assert "reads at most 64" in long["error"]["message"]


def test_bulk_refuses_no_small_request(running: Running) -> None:
    with ThreadPoolExecutor(2) as pool:
        bulk = [pool.submit(running.predict, model="llama", inputs=[TEXTS[0]] * QUEUE) for _ in range(2)]
        small = [running.predict(model="llama", inputs=[TEXTS[1]]).status_code for _ in range(20)]
        assert [request.result().status_code for request in bulk] == [200, 200]
    assert small == [200] * 20


def test_rationale_on_demand(running: Running) -> None:
    student = Student.load(running.folders["t5"])
    body = running.predict(model="t5", inputs=TEXTS[:2], rationale=True).json()
    expected = [d.text for d in student.answer(TEXTS[:2], "rationale", 8)]
    assert [p["rationale"] for p in body["predictions"]] == expected
    assert running.predict(model="llama", inputs=TEXTS[:2], rationale=True).status_code == 422


def test_the_dashboard_reads_what_the_endpoint_exports(running: Running) -> None:
    body = {"model": "llama", "prompt": TEXTS[0], "stream": True, "max_tokens": 4}
    with running.client.stream("POST", "/v1/completions", json=body) as response:
        assert list(response.iter_lines())
    running.predict(model="llama", inputs=[TEXTS[0]])
    assert running.predict(model="nobody", inputs=[TEXTS[0]]).status_code == 404

    def missing() -> set[str]:
        return metrics_read(SERVING) - {name for name, _, _ in exported()}

    wait_until(lambda: not missing(), 30.0, of=missing)
    wait_until(lambda: total(exported(), "ray_raystill_queue_seconds_count", model="llama") >= 2, 30.0)
    wait_until(lambda: total(exported(), "ray_vllm_generation_tokens_total", model_name="llama") >= 2, 30.0)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_the_official_client_completes_chats_and_streams(running: Running, name: str) -> None:
    official = openai.OpenAI(base_url=f"{running.client.base_url}/v1", api_key="none", max_retries=0)
    student = Student.load(running.folders[name])
    part = "[label] " if name == "t5" else ""
    expected = student.answer([TEXTS[1]], "label", 8)[0]
    whole = official.completions.create(model=name, prompt=f"{part}{TEXTS[1]}", max_tokens=8)
    assert whole.choices[0].text.strip() == expected.text
    assert whole.choices[0].finish_reason == ("length" if expected.output_tokens == 8 else "stop")
    chat: list[Any] = [{"role": "user", "content": TEXTS[1]}]
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(official.chat.completions.create(model=name, messages=chat, **options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip() == expected.text
    assert len(chunks) > 3, "the stream was a single chunk"
    for usage in (whole.usage, chunks[-1].usage):
        assert (usage and usage.completion_tokens) == expected.output_tokens
    drawn = [official.completions.create(model=name, prompt=TEXTS[1], temperature=1.5) for _ in range(5)]
    assert len({one.choices[0].text for one in drawn}) > 1
    stop = whole.choices[0].text[3:5]
    cut = official.completions.create(model=name, prompt=f"{part}{TEXTS[1]}", max_tokens=8, stop=[stop])
    assert cut.choices[0].text == whole.choices[0].text.partition(stop)[0]
    listed = official.completions.create(model=name, prompt=f"{part}{TEXTS[1]}", max_tokens=8, logprobs=1).choices[0]
    assert listed.logprobs is not None
    assert "".join(listed.logprobs.tokens or []) == listed.text == whole.choices[0].text
    assert all(number <= 0.0 for number in listed.logprobs.token_logprobs or [1.0])
    choices = {"guided_choice": ["35 + 9", "left", "right"]}
    chosen = official.completions.create(model=name, prompt=f"{part}{TEXTS[1]}", extra_body=choices)
    assert chosen.choices[0].text in choices["guided_choice"]
    with pytest.raises(openai.UnprocessableEntityError, match="reads at most 64"):
        official.completions.create(model=name, prompt="apples " * 500)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_huge_token_limits_delay_no_other_client(running: Running, name: str) -> None:
    """A limit of 10**30 tokens must not fail, and a million must not delay, other requests of the batch."""

    def ask(number: int) -> httpx.Response:
        if number % 2:
            return running.predict(model=name, inputs=[TEXTS[0]])
        body = {"model": name, "prompt": TEXTS[1], "max_tokens": (10**30, 1_000_000)[number // 2 % 2]}
        return running.client.post("/v1/completions", json=body)

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(ask, range(16)))
    assert [r.status_code for r in responses] == [200] * 16, [r.text for r in responses]
    # The trained text (tests/support/tiny_students.py) exceeds the default limit of 8.
    assert max(r.json()["usage"]["completion_tokens"] for r in responses[::2]) <= 32
    body = {"model": name, "prompt": TEXTS[1], "temperature": 1e-300}
    assert running.client.post("/v1/completions", json=body).status_code == 200
    if name == "llama":  # CTranslate2 samples without seeds
        for seed in (2**63 - 1, -(2**63)):
            seeded = {**body, "temperature": 1.0, "seed": seed}
            assert running.client.post("/v1/completions", json=seeded).status_code == 200


def test_the_page_and_the_access_log(running: Running) -> None:
    assert "default-src 'none'" in running.client.get("/").headers["content-security-policy"]
    secret = "a text that no log should hold"
    body = {"model": "t5", "inputs": [secret]}
    answer = running.client.post("/v1/predict", json=body, headers={"x-request-id": "find-me"})
    assert answer.headers.get_list("x-request-id") == ["find-me"]
    lines: list[dict[str, Any]] = []

    def logged() -> bool:
        files = list(Path(os.environ["RAY_TMPDIR"]).glob("ray/session_latest/logs/worker-*.out"))
        text = "\n".join(file.read_text() for file in files)
        assert secret not in text
        lines[:] = [json.loads(line) for line in text.splitlines() if '"find-me"' in line]
        return bool(lines)

    wait_until(logged)
    (line,) = lines
    assert [line[key] for key in ("route", "model", "status", "inputs")] == ["/v1/predict", "t5", 200, 1]
