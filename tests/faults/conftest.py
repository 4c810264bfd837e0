"""What the fault tests share: the embedded teacher, and how they tell what became of a load."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.conftest import teacher_folder
from tests.integration.endpoints import Counted, Load

__all__ = ["counted", "teacher_folder"]


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Notes what became of a load's requests, beside the test's result (--junit-xml)."""

    def note(load: Load) -> None:
        failed = len(load.failed)
        for name, count in (
            ("answered", len(load.responses) - failed),
            ("failed", failed),
            ("sent again", load.retried),
        ):
            record_property(name, count)

    return note
