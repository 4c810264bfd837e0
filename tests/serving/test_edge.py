"""The edge on a real uvicorn, as Serve's proxy runs it: the callback first, then a server over the application with the middlewares."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving import edge
from serving.api.errors import ErrorResponse

HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that answers with the headers that it has received."""
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    monkeypatch.setattr(edge, "HEAD_TIMEOUT_S", 0.5)

    async def headers(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse([name.decode() for name, _ in request.headers.raw])

    async def plain(request: Request) -> Response:
        return PlainTextResponse("Traceback", request.path_params["status"], {"retry-after": "3"})

    routes = [Route("/", headers, methods=["GET", "POST"]), Route("/{status:int}", plain)]
    app = Starlette(routes=routes, middleware=edge.middlewares())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(timeout=10)


def answer(port: int, *pieces: bytes) -> tuple[int, Any]:
    """(status, body) of a raw request; (0, None) if the server closes without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except ConnectionError:
            pass
        received = b""
        try:
            while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < _length(received):
                if not (data := client.recv(65536)):
                    break
                received += data
        except ConnectionError:
            pass
    if not received:
        return 0, None
    return int(received.split()[1]), json.loads(received.partition(b"\r\n\r\n")[2])


def received(port: int, sent: bytes) -> bytes:
    """All that the server answers until it closes the connection."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        with suppress(ConnectionError):
            while data := client.recv(65536):
                found += data
    return found


def _length(received: bytes) -> int:
    lines = received.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)


@pytest.mark.parametrize(
    "name",
    ["serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id", "x-request-timeout-seconds", "X-Request-Disconnect-Disabled",
     "x-serve-router-mode", "x-session-id"],
)  # fmt: skip
def test_headers_that_steer_serve_never_arrive(port: int, name: str) -> None:
    status, received = answer(port, HEAD + f"{name}: 1\r\nx-request-id: mine\r\n\r\n".encode())
    assert (status, received) == (200, ["host", "x-request-id"])


def test_large_headers_are_refused_while_they_arrive(port: int) -> None:
    sent = [HEAD, *(b"x-%d: " % i + b"a" * 4000 + b"\r\n" for i in range(1000))]
    status, body = answer(port, *sent)
    assert status in (431, 0), "a client that still sends may see the connection end first"
    status, body = answer(port, HEAD, b"x: " + b"a" * (edge.MAX_HEAD_BYTES + 1))
    assert (status, ErrorResponse.model_validate(body).error.code) == (431, "headers_too_large")
    for head in (HEAD + b"x: " + b"a" * 40_000, b"GET /?" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: x"):
        assert answer(port, head + b"\r\n\r\n")[0] == 431, "also if it is read as a whole"
    assert answer(port, HEAD, b"x: " + b"a" * 30_000 + b"\r\n\r\n")[0] == 200
    body = b"b" * 300_000
    assert answer(port, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + body)[0] == 200


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("begun", [b"5;", b"0\r\nx: "])
def test_what_surrounds_a_body_has_a_limit(port: int, begun: bytes) -> None:
    """Extensions of chunks, and trailers: a client could send them for as long as a body may take to arrive."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(CHUNKED + b"1\r\nb\r\n")
        time.sleep(0.1)  # what is read together with bytes of the body does not count
        client.sendall(begun + b"a" * 40_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431")
    status, names = answer(port, CHUNKED + b"1\r\nb\r\n0\r\nx-trailer: 1\r\n\r\n")
    assert (status, names) == (200, ["host", "transfer-encoding"])


@pytest.mark.parametrize(
    "sent",
    [b"G\x00T / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
     CHUNKED + b"zz\r\n", CHUNKED + b"-1\r\n",
     *[b"POST / HTTP/1.1\r\nhost: x\r\n" + lengths + b"\r\n\r\n" for lengths in (
        b"content-length: 1\r\ncontent-length: 1", b"content-length: +1", b"content-length: 0x1", b"content-length: " + b"9" * 30,
        b"content-length: 1\r\ntransfer-encoding: chunked", b"transfer-encoding: chunked\r\ntransfer-encoding: identity")]],
)  # fmt: skip
def test_what_is_no_http_is_refused(port: int, sent: bytes) -> None:
    status, body = answer(port, sent)
    assert (status, ErrorResponse.model_validate(body).error.code) == (400, "invalid_http")


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"x: 1\r\n\r\n" + HEAD], ids=["nothing", "half", "second"])
def test_connections_without_a_request_are_closed(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        began = time.monotonic()
        while client.recv(65536):
            pass
        assert time.monotonic() - began < 9


def test_headers_that_are_not_ascii_are_refused(port: int) -> None:
    status, body = answer(port, HEAD + b"x: \xff\xfe\r\n\r\n")
    assert (status, ErrorResponse.model_validate(body).error.code) == (400, "invalid_header")
    upgrade = (
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
        + b"a" * 22
        + b"==\r\n"
    )
    assert received(port, HEAD + upgrade + b"x: \xff\r\n\r\n").startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (503, "overloaded"), (500, "internal_error"), (408, "timeout")]
)
def test_errors_of_serve_get_the_shape_of_openai(port: int, status: int, code: str) -> None:
    found, body = answer(port, HEAD.replace(b" / ", f" /{status} ".encode()) + b"\r\n")
    error = ErrorResponse.model_validate(body).error
    assert (found, error.code) == (status, code)
    assert error.type == ("server_error" if status >= 500 else "invalid_request_error")
    assert "Traceback" not in error.message


def test_one_connection_answers_several_requests(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for _ in range(3):
            client.sendall(HEAD + b"\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)  # less than the limit, and more in total


def test_few_requests_wait_for_the_answer_to_another(port: int) -> None:
    """A read may hold 14,000 of them, which would take 6 MB until they are answered."""
    last = HEAD + b"connection: close\r\n\r\n"
    answered = {n: received(port, (HEAD + b"\r\n") * (n - 1) + last).count(b"HTTP/1.1 200") for n in (50, 5000)}
    assert answered[50] == 50
    assert answered[5000] < 2 * edge._MAX_PIPELINED + edge._SLICE_BYTES // len(HEAD)


@pytest.mark.parametrize("length", [2, 9])
def test_a_refused_body_does_not_hold_its_connection(port: int, length: int) -> None:
    """Neither while it arrives nor after it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"POST /404 HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 405")
        client.sendall(b"b")
        time.sleep(0.1)
        client.sendall(b"b")
        assert client.recv(65536) == b""
