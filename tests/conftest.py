"""Fixtures that every test may use. Real data comes from the folder that RAYSTILL_TEST_DATA names; it is not shipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.object_store import s3, s3_server

__all__ = ["s3", "s3_server"]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The `data` folder of RAYSTILL_TEST_DATA. Unset: the test is skipped; set but wrong: it fails."""
    root = os.environ.get("RAYSTILL_TEST_DATA")
    if not root:
        pytest.skip("RAYSTILL_TEST_DATA is not set: it names a folder with data/svamp, data/cqa and data/gsm8k")
    data = Path(root) / "data"
    assert data.is_dir(), f"RAYSTILL_TEST_DATA={root}: there is no folder {data}"
    return data
