"""`raystill key`: the key is printed once, its hash is kept."""

import asyncio
import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.commands import key as command
from pipelines.config.serving import KeysConfig
from serving.api.api_keys import KeyRing, key_line, new_key, parse_keys


def key(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["key", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


def admitted(file: Path, secret: str) -> str | None:
    return asyncio.run(KeyRing(KeysConfig(file=str(file))).check(f"Bearer {secret}"))


def test_the_key_is_printed_once_and_opens_the_endpoint(file: Path) -> None:
    done = key("shop", "--file", str(file), "--requests-per-minute", "600")
    assert done.exit_code == 0, done.output
    secret = done.stdout.strip()
    assert file.read_text() == key_line("shop", secret, 600) + "\n"
    assert secret not in file.read_text() + done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "To revoke it, remove its line" in done.stderr
    assert admitted(file, secret) == "shop"


def test_a_line_is_added_and_the_rest_stays(file: Path) -> None:
    file.write_bytes(b"# ours\r\n\n")
    first = key("a", "--file", str(file)).stdout.strip()
    file.write_text(file.read_text().rstrip("\n"))  # an editor that ends no line
    file.chmod(0o640)
    link = file.with_name("link")
    link.symlink_to(file)
    second = json.loads(key("b", "--file", str(link), "--json").stdout)
    assert second == {"name": "b", "key": second["key"], "line": key_line("b", second["key"]), "file": str(link)}
    assert link.is_symlink()
    assert file.read_text() == f"# ours\n\n{key_line('a', first)}\n{second['line']}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (admitted(file, first), admitted(file, second["key"])) == ("a", "b")


def test_without_a_file_its_line_is_printed() -> None:
    secret, line = key("shop").stdout.splitlines()
    assert line == key_line("shop", secret)
    assert json.loads(key("shop", "--json").stdout)["file"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *((["--", name], "a name has 1 to 63") for name in ("", "a b", "-", "a=b", "ä", "a\nb", 64 * "a", "../a")),
        *((["new", "--requests-per-minute", limit], "") for limit in ("0", "-1", "x", "10000000")),
        (["shop"], "line 1 has this name. Choose another name. To revoke or renew that key, remove its line"),
    ],
)
def test_a_wrong_name_or_limit_leaves_the_file(file: Path, arguments: list[str], message: str) -> None:
    key("shop", "--file", str(file))
    before = file.read_text()
    done = key("--file", str(file), *arguments)
    assert (done.exit_code, done.stdout, file.read_text()) == (2, "", before)
    assert message in done.stderr


def test_of_two_commands_at_once_one_gets_the_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return parse_keys(*arguments)

    monkeypatch.setattr(command, "parse_keys", slowly)
    with ThreadPoolExecutor(4) as pool:
        added = [pool.submit(command.add_line, str(file), "shop", key_line("shop", new_key())) for _ in range(4)]
    assert sum(one.exception() is None for one in added) == 1
    assert [one.name for one in parse_keys(file.read_bytes(), str(file))] == ["shop"]


def test_a_file_that_is_no_key_file_stays(file: Path) -> None:
    file.write_text("name: svamp\n")
    done = key("shop", "--file", str(file))
    assert (done.exit_code, file.read_text(), "keys.txt line 1" in done.stderr) == (2, "name: svamp\n", True)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (".", "it cannot be written (not a regular file)"),
        ("/dev/null", "it cannot be written (not a regular file)"),
        ("none/keys.txt", "it cannot be written (No such file or directory)"),
    ],
)
def test_an_unwritable_file_is_refused(tmp_path: Path, place: str, reason: str) -> None:
    done = key("shop", "--file", str(tmp_path / place))
    assert (done.exit_code, done.stdout, reason in done.stderr) == (2, "", True), done.stderr
