"""The documentation is true: links, commands, keys, tests and messages exist, and the code of its pages runs."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cluster.cli import main
from pipelines.errors import BadRowError, UnparsableError
from pipelines.label.teachers.base import Prompt, PromptRefusedError
from pipelines.methods import TrainingRow
from pipelines.tasks import Answer, Example
from pipelines.tasks.registry import load_task, task_spec
from tests.test_surface import COMMANDS, KEYS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), ROOT / "k8s/README.md"])
TEXTS = [page for page in PAGES if page.name != "CHANGELOG.md"]
ROOTS = {key.partition(".")[0] for key in KEYS.split() if "." in key}
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {".".join(key.split(".")[:length]) for key in KEYS.split() for length in range(1, key.count(".") + 2)}


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


def commands_of(text: str) -> list[list[str]]:
    """The words after `raystill` of each command, in blocks of code and in backticks, up to an operator of the shell."""
    code = [body for kind, body in BLOCK.findall(text) if not kind] + re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    lines = (
        "\n".join(code + [body for kind, body in BLOCK.findall(text) if kind == "sh"]).replace("\\\n", " ").split("\n")
    )
    found = [re.search(r"(?:^|&& |\$ |\()raystill ([a-z][^|;&>)#]*)", line) for line in lines]
    return [one[1].split() for one in found if one]


def keys_of(text: str) -> set[str]:
    """Keys of a run file: in backticks, of `--set`, and in blocks of YAML that begin with one of its sections."""
    found = {key for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?=[`:=])", text) if key.partition(".")[0] in ROOTS}
    for kind, body in BLOCK.findall(text):
        tree = yaml.safe_load(body) if kind == "yaml" else None
        if isinstance(tree, dict) and set(tree) <= SECTIONS:
            found |= set(flat(tree))
    return found | {
        words[at + 1].partition("=")[0]
        for words in commands_of(text)
        for at, word in enumerate(words)
        if word == "--set"
    }


def flat(tree: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a tree's leaves, not below keys whose content is free."""
    for name, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{name}" in SECTIONS and f"{prefix}{name}" not in KEYS.split():
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def missing(words: list[str]) -> set[str]:
    """Required options that a command with an argument lacks."""
    command: click.Command | None = main
    given = list(words)
    while isinstance(command, click.Group) and given:
        command = command.commands.get(given.pop(0))
    if command is None or not given or given[0].startswith("-"):
        return set()
    return {one.opts[0] for one in command.params if isinstance(one, click.Option) and one.required} - set(words)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_options_and_keys_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in commands_of(text):
        assert not missing(words), words
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), "")
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert options <= COMMANDS.get(name, set()) | {"--help"}, words
    assert {key for key in keys_of(text) if key not in SECTIONS} <= {"KEY"}


def test_messages_and_tests_that_pages_name_exist() -> None:
    sources = [file.read_text() for name in ("cluster", "pipelines", "serving") for file in (ROOT / name).rglob("*.py")]
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(sources))
    for message in re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE):
        assert all(part.strip(" ()") in code or part.startswith("Auth") for part in message.split("...")), message
    for file, name in re.findall(r"`(tests/\S+)::(\w+)`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


@pytest.mark.integration
def test_the_site_builds_and_names_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    page = (tmp_path / "site" / "reference" / "run-file.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="https?://[^"]+"', page)


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert len(text.split()) <= 1800


def code(name: str) -> str:
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("own-task.md", "extending.md"))
    found = re.search(rf"^```python {name}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
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


def test_teacher_method_and_engine_of_the_page_work() -> None:
    teacher = namespace("teacher")["LookupTeacher"].start(None, None, None)
    answered = asyncio.run(teacher.answer(Prompt(Example("1", "I slept well.", None), "Q: I slept well.")))
    assert answered.samples[0].text.endswith("good.")
    with pytest.raises(PromptRefusedError):
        asyncio.run(teacher.answer(Prompt(Example("2", "Cold.", None), "Q: Cold.")))
    method = namespace("method")["rationale_only"]
    row = TrainingRow(id="1", input="I slept well.", label="good", rationale="The guest rested.")
    assert [(t.part, t.text) for t in method.targets(row, None)] == [("rationale", "The guest rested.")]
    assert namespace("engine")["SlowEngine"].name == "slow"
