"""The endpoint that remote teachers are tested against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.label.teachers import http_errors
from tests.support.teacher_endpoint import Endpoint, running_endpoint


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http_errors, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(http_errors, "MAX_WAIT_S", 0.2)
    with running_endpoint() as running:
        yield running
