"""A shell that has used another cluster, and a stand-in for the dashboard of a cluster that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import ray

NODE = {
    "node_id": "aa", "node_ip": "127.0.0.1", "is_head_node": True, "state": "ALIVE", "state_message": "", "node_name": "aa",
    "resources_total": {}, "labels": {},
}  # fmt: skip
NODES = {
    "result": True,
    "msg": "",
    "data": {"result": {"result": [NODE], "total": 1, "num_after_truncation": 1, "num_filtered": 1}},
}
ANSWERS = {"/api/version": {"ray_version": ray.__version__}, "/api/jobs/": []}


class Dashboard(BaseHTTPRequestHandler):
    """A cluster without jobs, of one node, which is this machine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS.get(self.path, NODES)).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    """HOST:PORT of a dashboard."""
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
