from pathlib import Path

import httpx
import pytest

from pipelines.config.serving import ServingConfig
from serving.ingress import Ingress
from tests.support.tiny_students import write_student

pytestmark = pytest.mark.anyio


async def test_user_config_sets_the_students(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "decoder-only")
    ingress = Ingress(ServingConfig())
    transport = httpx.ASGITransport(ingress.__serve_build_asgi_app__())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/readyz")).status_code == 503
        await ingress.reconfigure({"students": {"a": str(folder), "b": "/nowhere"}, "fingerprints": {}, "split": {}})
        assert list(ingress.unavailable()) == ["b"]
        assert (await client.get("/readyz")).status_code == 200
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["a"]
        assert (await client.get("/v1/models/b")).status_code == 503
