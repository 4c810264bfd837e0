"""Fixtures of the fault tests: the embedded teacher, records of loads, network and storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import teacher_folder
from tests.support.endpoints import Counted, Load
from tests.support.network import Network
from tests.support.object_store import Server, running_server

__all__ = ["counted", "teacher_folder"]


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Records the outcomes of a load's requests in the test result (--junit-xml)."""

    def record(load: Load) -> None:
        failed = len(load.failed)
        for name, count in (
            ("answered", len(load.responses) - failed),
            ("failed", failed),
            ("sent again", load.retried),
        ):
            record_property(name, count)

    return record


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three hosts."""
    with Network(3) as network:
        yield network


@pytest.fixture(scope="module")
def storage(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server on the same network."""
    with network.lan.entered(), running_server(tmp_path_factory.mktemp("s3"), network.lan.address) as server:
        yield server
