"""Leases on a local folder. Kills and object stores: tests/integration/test_lease.py."""

import json
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.lease import FOLDER, Lease
from pipelines.storage.store import Store


def test_a_living_driver_keeps_the_folder_and_a_dead_one_does_not(tmp_path: Path) -> None:
    with Lease(Store(str(tmp_path)), 60.0) as held:
        (claim,) = (tmp_path / FOLDER).iterdir()
        tree = json.loads(claim.read_text())
        with pytest.raises(UserError, match="another driver is labelling into it: process "):
            Lease(Store(str(tmp_path)), 60.0).__enter__()
        assert list((tmp_path / FOLDER).iterdir()) == [claim], "a refused driver leaves no claim"
        held.check()
    assert list((tmp_path / FOLDER).iterdir()) == []
    tree["holder"]["process"] = 1  # another process has its pid now
    (tmp_path / FOLDER / "dead.json").write_text(json.dumps(tree | {"id": "dead"}))
    with Lease(Store(str(tmp_path)), 60.0):
        assert "dead.json" not in [path.name for path in (tmp_path / FOLDER).iterdir()]
