"""Versions of a student: traffic split, promotion and rollback under load. Also API keys and shared replicas."""

import math
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.config.serving import KeysConfig, TlsConfig
from pipelines.errors import StageFailedError, UserError
from pipelines.storage.store import MANIFEST
from serving.api.api_keys import key_line, new_key
from tests.support.endpoints import Load, endpoint_of, small, wait_until
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {
        "old": write_student(root / "old", "decoder-only", seed=0),
        "new": write_student(root / "new", "decoder-only", seed=1),
        "other": write_student(root / "other", "encoder-decoder", method="finetune"),
    }


def test_a_split_is_promoted_and_rolled_back_under_load(ray_here: None, folders: dict[str, Path]) -> None:
    from serving.deploy.rollout import serve_students

    serving, requests, share = small(max_batch_size=8), 60, 0.3
    versions = {"sums@old": folders["old"], "sums@new": folders["new"]}
    named = {name: str(folder) for name, folder in versions.items()}
    with endpoint_of(versions, serving, {"sums": {"new": 100 * share}}) as client:
        body = {"model": "sums", "inputs": [TEXTS[0]]}
        labels = {}
        for version in ("old", "new"):
            answer = client.post("/v1/predict", json={**body, "model": f"sums@{version}"}).json()
            labels[f"sums@{version}"] = (answer["model"], answer["predictions"][0]["label"])
        assert labels["sums@old"][1] != labels["sums@new"][1]
        # A version gets its share once the ingress has seen that it runs.
        ask = lambda: client.post("/v1/predict", json=body).json()["model"]  # noqa: E731
        wait_until(lambda: {ask() for _ in range(20)} == set(labels), 30.0)
        with Load(str(client.base_url), body) as load:
            load.answered(requests)
            found = Counter(r.json()["model"] for r in load.responses)
            assert set(found) == set(labels)
            deviation = math.sqrt(share * (1 - share) / requests)
            assert abs(found["sums@new"] / sum(found.values()) - share) < 4.5 * deviation, found
            serve_students(named, serving, {"sums": {"new": 100.0}})
            wait_until(lambda: {r.json()["model"] for r in load.responses[-30:]} == {"sums@new"}, 20.0)
            load.answered(40)
            serve_students(named, serving, {"sums": {"new": 0.0}})
            wait_until(lambda: {r.json()["model"] for r in load.responses[-30:]} == {"sums@old"}, 20.0)
            load.answered(40)
            # Without the new version: its replicas drain, the old one's stay.
            serve_students({"sums@old": named["sums@old"]}, serving)
            load.answered(40)
        assert load.failed == []
        for response in load.responses:
            answer = response.json()
            assert (answer["model"], answer["predictions"][0]["label"]) == labels[answer["model"]]
        shares = {m["id"]: m["share_percent"] for m in client.get("/v1/models").json()["data"]}
        assert shares == {"sums@old": 100.0}


BOTH = ("sums@1", "sums@2")
CANARY = [(("sums@1",), None), (BOTH, 10.0), (BOTH, 100.0), (BOTH, 0.0), (("sums@1",), None)]
RENAMING = [(("sums",), None), (("sums@1",), None), (BOTH, 50.0), (("sums@2",), None), (("sums",), None)]
LONG_QUEUES = {"max_batch_size": 1, "target_ongoing_requests": 1}


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "steps", "clients", "settings"),
    [("encoder-decoder", CANARY, 4, {"engine": "auto"}), ("decoder-only", RENAMING, 16, LONG_QUEUES)],
    ids=["a canary and back", "a name of 0.1 gets versions"],
)
def test_changed_students_answer_throughout(
    family: str, steps: list[tuple[tuple[str, ...], float | None]], clients: int, settings: dict[str, Any], ray_here: None,
    tmp_path: Path, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """With two ingress replicas under load."""
    from serving.deploy.rollout import serve_students

    serving = small(ingress_replicas=2, **settings)
    body = {"model": "sums", "inputs": [TEXTS[0]]}
    first, second = (write_student(tmp_path / str(seed), family, seed=seed) for seed in range(2))
    places = {"sums": first, "sums@1": first, "sums@2": second}
    with (
        endpoint_of({name: places[name] for name in steps[0][0]}, serving) as client,
        Load(str(client.base_url), body, clients) as load,
    ):
        load.answered(50)
        for students, share in steps[1:]:
            before = len(load.responses)
            split = None if share is None else {"sums": {"2": share}}
            serve_students({name: str(places[name]) for name in students}, serving, split)
            load.answered(100)
            found = load.responses[before:]
            slowest = max(response.elapsed.total_seconds() for response in found)
            record_property(f"{students} {share}", (Counter(r.json().get("model") for r in found), slowest))
            assert load.responses[-1].json()["model"] in students
    assert load.failed == []


@pytest.mark.full
def test_versions_come_and_go_under_load(ray_here: None, folders: dict[str, Path], tmp_path: Path) -> None:
    """A version gets requests only while it runs. A version that cannot start changes nothing."""
    from ray import serve

    from serving.deploy.rollout import serve_students

    serving = small(max_batch_size=8)
    broken = write_student(tmp_path / "broken", "decoder-only", seed=2)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    named = {"sums@old": str(folders["old"]), "sums@new": str(folders["new"]), "sums@broken": str(broken)}
    body = {"model": "sums", "inputs": [TEXTS[0]]}
    with endpoint_of({"sums@old": folders["old"]}, serving) as client, Load(str(client.base_url), body) as load:
        models = lambda: {r.json().get("model") for r in load.responses[-50:]}  # noqa: E731
        listed = lambda: [model["id"] for model in client.get("/v1/models").json()["data"]]  # noqa: E731
        load.answered(50)
        assert models() == {"sums@old"}
        serve_students({name: named[name] for name in ("sums@old", "sums@new")}, serving, {"sums": {"new": 50.0}})
        wait_until(lambda: models() == {"sums@old", "sums@new"}, 20.0)
        load.answered(100)
        with pytest.raises(StageFailedError, match="the endpoint runs as before, with its old shares"):
            serve_students(named, serving, {"sums": {"broken": 50.0}})
        load.answered(100)
        assert models() == {"sums@old", "sums@new"}
        assert listed() == ["sums@old", "sums@new"]
        gone = "raystill-student-sums@broken"
        wait_until(lambda: gone not in serve.status().applications, of=lambda: f"the end of {gone}")
        serve_students({"sums@old": named["sums@old"]}, serving)
        load.answered(100)
        assert models() == {"sums@old"}
        assert load.failed == []
        assert listed() == ["sums@old"]


@pytest.mark.full
def test_a_retrained_student_is_served_by_the_same_command(ray_here: None, tmp_path: Path) -> None:
    from serving.deploy.rollout import serve_students

    place, serving = write_student(tmp_path / "student", "decoder-only"), small()
    with endpoint_of({"sums": place}, serving) as client:
        fingerprint = lambda: client.get("/v1/models/sums").json()["fingerprint"]  # noqa: E731
        with Load(str(client.base_url), {"inputs": [TEXTS[0]]}) as load:
            load.answered(20)
            before, label = fingerprint(), load.responses[-1].json()["predictions"][0]["label"]
            other = write_student(tmp_path / "retrained" / "student", "decoder-only", seed=1)
            # As training does: the version mapped by a replica stays intact.
            for file in sorted(other.iterdir(), key=lambda file: file.name == MANIFEST):
                file.rename(place / file.name)
            serve_students({"sums": str(place)}, serving)
            assert fingerprint() != before
            load.answered(20)
            assert load.responses[-1].json()["predictions"][0]["label"] != label
        assert load.failed == []


@pytest.mark.full
def test_applications_of_others_stay_unchanged(ray_here: None, folders: dict[str, Path]) -> None:
    """Applications of `serve.run` have no config. Broken ones of others are ignored."""
    from ray import serve

    from serving.deploy.rollout import serve_students

    @serve.deployment
    class Shop:
        def __init__(self, *, opens: bool) -> None:
            assert opens

        def __call__(self, _: object) -> str:
            return "open"

    settings = small()
    serve.start(http_options={"host": settings.host, "port": settings.port})
    try:
        serve.run(Shop.bind(opens=True), name="shop", route_prefix="/shop")
        with pytest.raises(RuntimeError):
            serve.run(Shop.bind(opens=False), name="shut", route_prefix="/shut")
        with pytest.raises(UserError, match=f"Serve already runs on this Ray, with port {settings.port}"):
            serve_students({"sums": str(folders["old"])}, small())
        with endpoint_of({"sums": folders["old"]}, settings) as client:
            assert client.post("/v1/predict", json={"inputs": [TEXTS[0]]}).status_code == 200
            assert client.get("/shop").text == "open"
        assert httpx.get(f"http://{settings.host}:{settings.port}/shop").text == "open"
        assert set(serve.status().applications) == {"shop", "shut"}
    finally:
        serve.shutdown()


def test_an_ending_endpoint_answers_open_requests(ray_here: None, folders: dict[str, Path]) -> None:
    from serving.deploy.rollout import serve_students

    endpoint = serve_students({"sums": str(folders["old"])}, small(max_batch_size=1))
    with httpx.Client(base_url=endpoint.url, timeout=60.0) as client, ThreadPoolExecutor(1) as pool:
        client.post("/v1/predict", json={"inputs": [TEXTS[0]]})  # the route is known now
        request = pool.submit(client.post, "/v1/predict", json={"inputs": [TEXTS[0]] * 60})
        time.sleep(0.3)
        client.post("/v1/predict", json={"inputs": [TEXTS[0]]})  # came later, so that the other one is under way
        too_fast = request.done()
        endpoint.shutdown()
        assert not too_fast
        assert len(request.result().json()["predictions"]) == 60
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{endpoint.url}/healthz")


@pytest.mark.full
def test_keys_are_revoked_by_a_change_of_their_file(ray_here: None, folders: dict[str, Path], tmp_path: Path) -> None:
    key = new_key()
    file = tmp_path / "keys"
    file.write_text(f"{key_line('team', key)}\n")
    keys = KeysConfig(file=str(file), requests_per_minute=5)
    with endpoint_of({"sums": folders["old"]}, small(keys=keys, ingress_replicas=2)) as client:

        def ask(given: str | None, **parameters: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {given}"} if given else {}
            return client.post("/v1/predict", json={"inputs": [TEXTS[0]]}, headers=headers, params=parameters)

        assert ask(key).status_code == 200
        assert [ask(None).status_code, ask("wrong").status_code, ask(None, api_key=key).status_code] == [401] * 3
        assert [client.get(path).status_code for path in ("/", "/healthz", "/openapi.json")] == [200] * 3
        assert client.get("/v1/models").status_code == 401
        limited = [ask(key) for _ in range(6)]
        assert [r.status_code for r in limited] == [200] * 4 + [429] * 2
        assert 1 <= int(limited[-1].headers["retry-after"]) <= 60
        file.write_text("")
        wait_until(lambda: ask(key).status_code == 401, 10.0)


@pytest.mark.full
def test_https_by_files(ray_here: None, folders: dict[str, Path], tmp_path: Path) -> None:
    from serving.deploy.rollout import serve_students

    tls = TlsConfig(certificate=str(tmp_path / "crt"), key=str(tmp_path / "key"))
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", tls.key, "-out", tls.certificate], check=True, capture_output=True)
    endpoint = serve_students({"sums": str(folders["old"])}, small(tls=tls))
    try:
        trusted = ssl.create_default_context(cafile=tls.certificate)
        with httpx.Client(base_url=endpoint.url, verify=trusted, timeout=60.0) as client:
            assert client.post("/v1/predict", json={"inputs": [TEXTS[0]]}).status_code == 200
            assert client.get("/v1/models", headers={"host": "evil.example.com"}).status_code == 421
    finally:
        endpoint.shutdown()


@pytest.mark.full
def test_students_share_replicas_and_come_and_go_under_load(ray_here: None, folders: dict[str, Path]) -> None:
    from serving.deploy.rollout import serve_students

    serving = small(students_per_replica=2)
    with endpoint_of(folders, serving) as client:

        def ask(name: str) -> httpx.Response:
            return client.post("/v1/predict", json={"model": name, "inputs": [TEXTS[0]]})

        first = {name: ask(name) for name in folders}
        assert {name: r.status_code for name, r in first.items()} == dict.fromkeys(folders, 200)
        with Load(str(client.base_url), {"model": "old", "inputs": [TEXTS[0]]}, clients=2) as load:
            load.answered(5)
            for name in ("new", "other", "new", "other"):
                assert ask(name).json() == first[name].json()
            for gone, kept in (("new", "other"), ("other", "new")):
                serve_students({name: str(folders[name]) for name in ("old", kept)}, serving)
                load.answered(5)
                assert [ask(gone).status_code, ask(kept).status_code] == [404, 200]
        assert load.failed == []
        label = first["old"].json()["predictions"][0]["label"]
        assert {r.json()["predictions"][0]["label"] for r in load.responses} == {label}
