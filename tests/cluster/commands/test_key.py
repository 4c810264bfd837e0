"""`raystill key`: the key is shown once, its hash is kept."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main
from pipelines.config.serving import KeysConfig
from serving.api.api_keys import KeyRing, key_line


def key(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["key", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


def let_in(file: Path, secret: str) -> str | None:
    return asyncio.run(KeyRing(KeysConfig(file=str(file))).check(f"Bearer {secret}"))


def test_the_key_is_shown_once_and_opens_the_endpoint(file: Path) -> None:
    done = key("shop", "--file", str(file), "--requests-per-minute", "600")
    assert done.exit_code == 0, done.output
    secret = done.stdout.strip()
    assert file.read_text() == key_line("shop", secret, 600) + "\n"
    assert secret not in file.read_text() + done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "To revoke it, remove its line" in done.stderr
    assert let_in(file, secret) == "shop"
    assert [path.name for path in file.parent.iterdir()] == ["keys.txt"]


def test_a_line_is_added_and_the_rest_stays(file: Path) -> None:
    file.write_bytes(b"# ours\r\n\n")
    first = key("a", "--file", str(file)).stdout.strip()
    file.write_text(file.read_text().rstrip("\n"))  # an editor that ends no line
    file.chmod(0o640)
    second = json.loads(key("b", "--file", str(file), "--json").stdout)
    assert second == {"name": "b", "key": second["key"], "line": key_line("b", second["key"]), "file": str(file)}
    assert file.read_text().endswith(f"\n{key_line('a', first)}\n{second['line']}\n")
    assert file.read_text().startswith("# ours\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (let_in(file, first), let_in(file, second["key"])) == ("a", "b")


def test_a_link_stays_one(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    assert key("a", "--file", str(link)).exit_code == 0
    assert link.is_symlink()
    assert file.read_text().startswith("a sha256:")


def test_without_a_file_its_line_is_printed() -> None:
    secret, line = key("shop").stdout.splitlines()
    assert line == key_line("shop", secret)
    assert json.loads(key("shop", "--json").stdout)["file"] is None


def test_a_name_that_is_taken_is_refused(file: Path) -> None:
    key("shop", "--file", str(file))
    before = file.read_text()
    done = key("shop", "--file", str(file))
    assert done.exit_code == 2
    assert "line 1 has this name" in done.stderr
    assert "to revoke that key, or to renew it, remove its line" in done.stderr
    assert done.stdout == ""
    assert file.read_text() == before
    assert key("Shop", "--file", str(file)).exit_code == 0


@pytest.mark.parametrize("name", ["", "a b", "-", "a=b", "ä", "a\nb", 64 * "a", "../a"])
def test_a_wrong_name_is_refused(file: Path, name: str) -> None:
    done = key("--file", str(file), "--", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "a name has 1 to 63" in done.stderr
    assert not file.exists()


@pytest.mark.parametrize("limit", ["0", "-1", "x", "10000000"])
def test_a_wrong_limit_is_refused(file: Path, limit: str) -> None:
    assert key("shop", "--file", str(file), "--requests-per-minute", limit).exit_code == 2
    assert not file.exists()


def test_a_file_that_holds_something_else_stays_as_it_is(file: Path) -> None:
    file.write_text("name: svamp\n")
    done = key("shop", "--file", str(file))
    assert (done.exit_code, done.stdout, file.read_text()) == (2, "", "name: svamp\n")
    assert "keys.txt line 1" in done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["keys.txt"]


def test_where_no_file_can_be_written(file: Path, tmp_path: Path) -> None:
    for place, why in ((tmp_path, "not a regular file"), (Path("/dev/null"), "not a regular file"),
                       (tmp_path / "none" / "keys.txt", "No such file or directory")):  # fmt: skip
        done = key("shop", "--file", str(place))
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"cannot be written ({why})" in done.stderr
    file.with_name("keys.txt.new").touch()
    done = key("shop", "--file", str(file))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "another `raystill key` is writing it" in done.stderr
    assert file.with_name("keys.txt.new").exists()
