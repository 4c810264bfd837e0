"""What clusters of machines stand on: three hosts, and storage beside them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network import Network
from tests.object_store import Server, running_server


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(3) as network:
        yield network


@pytest.fixture(scope="module")
def storage(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with network.lan.entered(), running_server(tmp_path_factory.mktemp("s3"), network.lan.address) as server:
        yield server
