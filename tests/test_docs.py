"""The documentation is true: links lead somewhere, and the code of docs/extending.md runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BadRowError, UnparsableError
from pipelines.label.teachers.base import Prompt, PromptRefusedError
from pipelines.methods import TrainingRow
from pipelines.tasks import Answer, Example
from pipelines.tasks.registry import load_task, task_spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "k8s" / "README.md"])
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert len(text.split()) <= 1800


def code(name: str) -> str:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = re.search(rf"^```python {name}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def namespace(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(code(name), f"docs/extending.md ({name})", "exec"), found)  # noqa: S102 - our own page
    return found


def test_the_task_of_the_page_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "sentiment.py").write_text(code("task"))
    task = load_task(task_spec(str(tmp_path / "sentiment.py")))
    example = task.read({"id": "1", "review": "Fine.", "gold": None})
    assert task.parse("It was fine. The answer is good.", example) == Answer("good", "It was fine.")
    with pytest.raises(UnparsableError):
        task.parse("The answer is fine.", example)
    with pytest.raises(BadRowError):
        task.read({"id": "1", "review": 3, "gold": None})


def test_the_teacher_of_the_page_answers() -> None:
    teacher = namespace("teacher")["LookupTeacher"].start(None, None, None)
    answered = asyncio.run(teacher.answer(Prompt(Example("1", "I slept well.", None), "Q: I slept well.")))
    assert answered.samples[0].text.endswith("good.")
    with pytest.raises(PromptRefusedError):
        asyncio.run(teacher.answer(Prompt(Example("2", "Cold.", None), "Q: Cold.")))


def test_the_method_of_the_page_lists_targets() -> None:
    method = namespace("method")["rationale_only"]
    row = TrainingRow(id="1", input="I slept well.", label="good", rationale="The guest rested.")
    assert [(t.part, t.text) for t in method.targets(row, None)] == [("rationale", "The guest rested.")]


def test_the_engine_of_the_page_is_an_engine() -> None:
    assert namespace("engine")["SlowEngine"].name == "slow"
