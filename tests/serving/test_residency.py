import asyncio

import pytest

from serving import residency as module
from serving.residency import Residency
from tests.support.clock import Clock

pytestmark = pytest.mark.anyio


async def test_a_student_stays_three_times_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alternating requests would start an engine each. The least recently used student leaves first."""
    monkeypatch.setattr(module, "_POLL_S", 0.001)
    clock = Clock()
    residency, starts = Residency(2, clock), list[str]()
    loaded: list[str] = []

    async def request(student: str) -> None:
        with await residency.entered(student):
            if student not in loaded:
                loaded[:] = [*loaded[-1:], student]
                starts.append(student)
                await asyncio.sleep(0.002)
            else:
                loaded.append(loaded.pop(loaded.index(student)))
            residency.note(student, 10.0)

    for student in "abab":
        await request(student)
    waiting = [asyncio.create_task(request(student)) for student in "cdcd"]
    await asyncio.sleep(0.02)
    await request("b")
    assert starts == ["a", "b"]
    clock.now = 31.0
    await asyncio.sleep(0.05)
    assert starts == ["a", "b", "c", "d"]
    assert all(task.done() for task in waiting)
    other = asyncio.create_task(request("a"))
    await asyncio.sleep(0.02)
    assert not other.done(), "c and d have just come"
    other.cancel()
