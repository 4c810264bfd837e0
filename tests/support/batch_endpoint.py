"""OpenAI's Files and Batches on the endpoint of teacher_endpoint.py. Every request of a batch gets the endpoint's answer."""

import json
import math
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response


@dataclass
class BatchState:
    """What the endpoint knows of files and batches."""

    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: int = 2
    """Looks at a batch until it is completed."""
    room: int = 1000
    """Batches that are in its queue at most; others fail."""
    answered_share: float = 1.0
    """Of the requests of a batch; a smaller one expires."""
    broken: frozenset[int] = frozenset()
    """Numbers of requests that fail, in each batch."""

    def requests(self) -> list[dict[str, Any]]:
        """Of all batches that were taken."""
        taken = [one for one in self.batches.values() if one["status"] != "failed"]
        return [json.loads(line) for one in taken for line in self.files[one["input_file_id"]].splitlines()]


def add_batches(app: FastAPI, state: BatchState, answer: Any) -> None:
    """Add the routes. `answer`: (path, body) -> response of one request."""

    @app.post("/v1/files")
    async def upload(request: Request) -> Any:
        form = await request.form()
        content = await form["file"].read()  # type: ignore[union-attr]
        name = f"file-{len(state.files)}"
        state.files[name] = content.decode()
        size = len(content)
        return {"id": name, "object": "file", "bytes": size, "created_at": 0, "filename": "r.jsonl", "purpose": "batch"}

    @app.get("/v1/files/{name}/content")
    async def download(name: str) -> Response:
        return PlainTextResponse(state.files[name])

    @app.post("/v1/batches")
    async def create(request: Request) -> Any:
        body = await request.json()
        active = sum(one["status"] == "in_progress" for one in state.batches.values())
        full = {"data": [{"code": "token_limit_exceeded", "message": "too many tokens in the queue"}]}
        is_full = active >= state.room
        batch = {"id": f"batch-{len(state.batches)}", "object": "batch", "created_at": int(time.time()), "looks": 0, **body,
                 "status": "failed" if is_full else "in_progress", "errors": full if is_full else None}  # fmt: skip
        state.batches[batch["id"]] = batch
        return batch

    @app.get("/v1/batches")
    async def listed() -> Any:
        return {"object": "list", "data": list(state.batches.values())[::-1], "has_more": False}

    @app.get("/v1/batches/{name}")
    async def look(name: str) -> Any:
        batch = state.batches[name]
        batch["looks"] += 1
        if batch["status"] == "in_progress" and batch["looks"] >= state.looks:
            _complete(state, batch, answer)
        return JSONResponse(batch)


def _complete(state: BatchState, batch: dict[str, Any], answer: Any) -> None:
    lines = state.files[batch["input_file_id"]].splitlines()
    answered = lines[: math.ceil(len(lines) * state.answered_share)]
    results: dict[bool, list[str]] = {True: [], False: []}
    for number, line in enumerate(answered):
        request = json.loads(line)
        body, status = json.loads(answer(request["url"], request["body"]).body), 200
        if number in state.broken:
            body, status = {"error": {"message": "content is refused"}}, 400
        response = {"status_code": status, "request_id": "r", "body": body}
        found = {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}
        results[status == 200].append(json.dumps(found))
    for key, is_good in (("output_file_id", True), ("error_file_id", False)):
        batch[key] = f"file-{len(state.files)}"
        state.files[batch[key]] = "\n".join(results[is_good])
    batch["status"] = "completed" if len(answered) == len(lines) else "expired"
    batch["request_counts"] = {"total": len(lines), "completed": len(results[True]), "failed": len(results[False])}
