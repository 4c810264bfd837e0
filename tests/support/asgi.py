"""ASGI applications: requests without a server, a server in a thread, and what error responses must look like."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tests.support.endpoints import wait_until


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of a server with this application, which runs in a thread for the duration of the block."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, every_s=0.01, of=lambda: "the server's start")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def http_scope(path: str, *headers: tuple[bytes, bytes], spec_version: str = "2.3") -> dict[str, Any]:
    """A POST request, as a server passes it to the application."""
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http", "root_path": "", "headers": list(headers),
        "server": ("t", 80), "client": ("c", 1),
    }  # fmt: skip


async def post(app: Any, messages: list[dict[str, Any]], *headers: tuple[bytes, bytes]) -> tuple[int, str]:
    """Status and error code for a prediction whose client sends these messages, and then nothing."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: Any) -> None:
        sent.append(message)

    await app(http_scope("/v1/predict", *headers), receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def error_of(response: Any, status: int, code: str, param: str | None = None) -> str:
    """The message of an error response whose other parts are as stated."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return str(error["message"])
