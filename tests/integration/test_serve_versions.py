"""Versions of a student, shares of the requests, promotion and rollback under load; keys; students that share their replicas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.config_serving import KeysConfig
from serving.keys import key_line, new_key
from tests.integration.endpoints import Load, endpoint_of, small, wait_until
from tests.integration.local_ray import local_ray
from tests.serving.tiny import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.serve, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {
        "old": write_student(root / "old", "decoder-only", seed=0),
        "new": write_student(root / "new", "decoder-only", seed=1),
        "other": write_student(root / "other", "encoder-decoder", method="finetune"),
    }


@pytest.mark.parametrize("requests", [300, pytest.param(1000, marks=pytest.mark.full)])
def test_a_split_is_promoted_and_rolled_back_under_load(
    ray_here: None, folders: dict[str, Path], requests: int, record_property: Callable[[str, object], None]
) -> None:
    from serving.endpoint import serve_students

    serving = small(max_batch_size=8)
    versions = {"sums@old": folders["old"], "sums@new": folders["new"]}
    named = {name: str(folder) for name, folder in versions.items()}
    with endpoint_of(versions, serving, {"sums": {"new": 10.0}}) as client:
        body = {"model": "sums", "inputs": [TEXTS[0]]}
        labels = {}
        for version in ("old", "new"):
            answer = client.post("/v1/predict", json={**body, "model": f"sums@{version}"}).json()
            labels[f"sums@{version}"] = (answer["model"], answer["predictions"][0]["label"])
        assert labels["sums@old"][1] != labels["sums@new"][1]
        with Load(str(client.base_url), body) as load:
            load.answered(requests)
            found = Counter(r.json()["model"] for r in load.responses)
            record_property("answers by version", dict(found))
            assert set(found) == set(labels)
            deviation = math.sqrt(0.1 * 0.9 / requests)
            assert abs(found["sums@new"] / sum(found.values()) - 0.1) < 4.5 * deviation, found
            serve_students(named, serving, {"sums": {"new": 100.0}})
            wait_until(lambda: {r.json()["model"] for r in load.responses[-50:]} == {"sums@new"}, 20.0)
            load.answered(100)
            serve_students(named, serving, {"sums": {"new": 0.0}})
            wait_until(lambda: {r.json()["model"] for r in load.responses[-50:]} == {"sums@old"}, 20.0)
            load.answered(100)
            # Without the new version at all: its replicas drain, the old one's stay.
            serve_students({"sums@old": named["sums@old"]}, serving)
            load.answered(100)
        record_property("answered and failed in all", (len(load.responses), len(load.failed)))
        assert load.failed == []
        for response in load.responses:
            answer = response.json()
            assert (answer["model"], answer["predictions"][0]["label"]) == labels[answer["model"]]
        shares = {m["id"]: m["share_percent"] for m in client.get("/v1/models").json()["data"]}
        assert shares == {"sums@old": 100.0}


def test_keys_are_revoked_by_a_change_of_their_file(ray_here: None, folders: dict[str, Path], tmp_path: Path) -> None:
    key = new_key()
    file = tmp_path / "keys"
    file.write_text(f"{key_line('team', key)}\n")
    with endpoint_of({"sums": folders["old"]}, small(keys=KeysConfig(file=str(file), requests_per_minute=5))) as client:

        def ask(given: str | None, **where: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {given}"} if given else {}
            return client.post("/v1/predict", json={"inputs": [TEXTS[0]]}, headers=headers, params=where)

        assert ask(key).status_code == 200
        assert [ask(None).status_code, ask("wrong").status_code, ask(None, api_key=key).status_code] == [401] * 3
        assert [client.get(path).status_code for path in ("/", "/healthz", "/openapi.json")] == [200] * 3
        assert client.get("/v1/models").status_code == 401
        limited = [ask(key) for _ in range(6)]
        assert [r.status_code for r in limited] == [200] * 4 + [429] * 2
        assert 1 <= int(limited[-1].headers["retry-after"]) <= 60
        file.write_text("")
        wait_until(lambda: ask(key).status_code == 401, 10.0)


def test_students_share_replicas_and_make_room(ray_here: None, folders: dict[str, Path]) -> None:
    students = {"old": folders["old"], "new": folders["new"], "other": folders["other"]}
    with endpoint_of(students, small(students_per_replica=2)) as client:

        def ask(name: str) -> httpx.Response:
            return client.post("/v1/predict", json={"model": name, "inputs": [TEXTS[0]]})

        first = {name: ask(name) for name in students}
        assert {name: r.status_code for name, r in first.items()} == dict.fromkeys(students, 200)
        with Load(str(client.base_url), {"model": "old", "inputs": [TEXTS[0]]}, clients=2) as load:
            load.answered(5)
            for name in ("new", "other", "new", "other"):
                assert ask(name).json() == first[name].json()
            load.answered(5)
        assert load.failed == []
        assert {r.json()["predictions"][0]["label"] for r in load.responses} == {
            first["old"].json()["predictions"][0]["label"]
        }
