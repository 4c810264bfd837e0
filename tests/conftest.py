"""Fixtures that every test may use. Real data comes from the folder that RAYSTILL_TEST_DATA names; it is not shipped."""

import atexit
import os
from pathlib import Path

import pytest

from tests.support.object_store import s3, s3_server

__all__ = ["s3", "s3_server"]
pytest_plugins = ["tests.support.run_limits"]

if "PYTEST_XDIST_WORKER" in os.environ:
    # The last handler, since it is the first one registered. tests/__main__.py says why no destructors may run after Ray.
    atexit.register(os._exit, 0)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The `data` folder of RAYSTILL_TEST_DATA. Unset: the test is skipped; set but wrong: it fails."""
    root = os.environ.get("RAYSTILL_TEST_DATA")
    if not root:
        pytest.skip("RAYSTILL_TEST_DATA is not set: it names a folder with data/svamp, data/cqa and data/gsm8k")
    data = Path(root) / "data"
    assert data.is_dir(), f"RAYSTILL_TEST_DATA={root}: there is no folder {data}"
    return data


@pytest.fixture(scope="session")
def teacher_folder() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder; downloaded into the cache on first use."""
    from pipelines.students.embedded_teacher import embedded_teacher

    return embedded_teacher()
