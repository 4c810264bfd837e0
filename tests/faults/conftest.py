"""Fixtures of the fault tests: the embedded teacher, records of loads, network and storage."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.chain import Note
from tests.support.network import Network
from tests.support.object_store import Server, running_server


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(3) as network:
        yield network


@pytest.fixture(scope="module")
def storage(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with network.lan.entered(), running_server(tmp_path_factory.mktemp("s3"), network.lan.address) as server:
        yield server


@pytest.fixture
def note(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Note:
    """Records figures in the test result (--junit-xml) and prints them."""

    def write(**figures: object) -> None:
        for name, value in figures.items():
            record_property(name, value)
        print(json.dumps({"fault": request.node.name, **figures}))

    return write
