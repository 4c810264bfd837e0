"""Keys of the endpoint: what a key file may hold, who is let in, what a change of the file does, limits."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.serving import KeysConfig
from pipelines.errors import UserError
from serving.api.api_keys import MAX_FILE_BYTES, KeyRing, key_line, new_key, parse_keys, parse_pairs
from serving.api.errors import ApiError

# As `new_key` makes them, and the same in each run: tests are named by them.
SHOP, NIGHTLY = f"rs-{8 * 'Shop_'}Key", f"rs-{8 * 'Night'}Key"
HASH = "sha256:" + 64 * "a"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"# who may ask\n\n{key_line('shop', SHOP)}\n  {key_line('nightly', NIGHTLY)}  # the batch job\r\n")
    return path


def ring(file: Path | None = None, clock: Clock | None = None, share: int = 1, **config: Any) -> KeyRing:
    config |= {"file": str(file)} if file else {}
    return KeyRing(KeysConfig(**config), share=share, clock=clock or Clock())


def run(check: Coroutine[Any, Any, str | None]) -> str | None:
    return asyncio.run(check)


def name(keys: KeyRing, key: str) -> str | None:
    """The name that a key is let in by; None: it is refused."""
    try:
        return run(keys.check(f"Bearer {key}"))
    except ApiError as error:
        return None if error.code == "invalid_key" else error.code


def refusal(keys: KeyRing, authorization: str | None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        run(keys.check(authorization))
    return caught.value


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def test_keys_are_random_and_lines_hold_only_their_hash() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("rs-") and len(key) == 46 for key in keys)
    assert key_line("shop", SHOP, 60) == f"shop sha256:{hashlib.sha256(SHOP.encode()).hexdigest()} 60"


def test_an_endpoint_without_keys_is_open() -> None:
    assert ring().open
    assert run(ring().check(None)) is None
    assert run(ring().check("Bearer whatever")) is None


def test_a_key_is_known_by_its_name(file: Path) -> None:
    keys = ring(file)
    assert not keys.open
    assert (name(keys, SHOP), name(keys, NIGHTLY), name(keys, new_key())) == ("shop", "nightly", None)


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "Bearer {}  "])
def test_forms_of_the_header(file: Path, form: str) -> None:
    assert run(ring(file).check(form.format(SHOP))) == "shop"


@pytest.mark.parametrize(
    "authorization", [None, "", " ", "Bearer", "Bearer ", "Bearer    ", SHOP, f"Basic {SHOP}", f"Bearer\t{SHOP}", f" Bearer {SHOP}",
                      f"Key {SHOP}", "\x00", "\xe9", 1_000_000 * "x"],
)  # fmt: skip
def test_no_key_is_told_where_it_belongs(file: Path, authorization: str | None) -> None:
    error = refusal(ring(file), authorization)
    assert (error.status, error.code) == (401, "missing_key")
    assert "Authorization: Bearer KEY" in error.message
    assert SHOP not in error.message
    assert error.response().headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "key", ["x", SHOP[:-1], SHOP + "x", SHOP.swapcase(), "shop", HASH, hashlib.sha256(SHOP.encode()).hexdigest(), f"{SHOP} {SHOP}",
            f"{SHOP}\x00", f"{SHOP}\n", f"\x00{SHOP}", f"{SHOP}\xa0", "\xe9\xff", "\ud800", "ключ", "🔑", 10_000_000 * "x", "%s %n {0}"],
)  # fmt: skip
def test_a_wrong_key_is_refused_and_never_repeated(file: Path, key: str) -> None:
    error = refusal(ring(file), f"Bearer {key}")
    assert (error.status, error.code) == (401, "invalid_key")
    assert key not in error.message
    assert len(error.message) < 200


@pytest.mark.parametrize("key", [SHOP, NIGHTLY, "unknown"])
def test_every_hash_is_compared_whichever_key_it_is(file: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    compared = []
    genuine = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or genuine(a, b))
    name(ring(file), key)
    presented = hashlib.sha256(key.encode()).digest()
    assert compared == [(presented, hashlib.sha256(k.encode()).digest()) for k in (SHOP, NIGHTLY)]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (f"{SHOP}", "`sha256:` with 64 hexadecimal digits"),
        (f"shop {SHOP}", "`sha256:` with 64 hexadecimal digits"),
        (f"shop sha256:{SHOP}", "`sha256:` with 64 hexadecimal digits"),
        (f"shop {HASH[:-1]}", "`sha256:` with 64 hexadecimal digits"),
        (f"shop {HASH}a", "`sha256:` with 64 hexadecimal digits"),
        (f"shop {HASH} 0", "from 1 to 9999999"),
        (f"shop {HASH} -5", "from 1 to 9999999"),
        (f"shop {HASH} 1.5", "from 1 to 9999999"),
        (f"shop {HASH} ٣", "from 1 to 9999999"),
        (f"shop {HASH} 99999999", "from 1 to 9999999"),
        (f"shop {HASH} 5 {SHOP}", "from 1 to 9999999"),
        (f"-shop {HASH}", "a name has 1 to 63"),
        (f"{64 * 's'} {HASH}", "a name has 1 to 63"),
        (f"sh\xf6p {HASH}", "a name has 1 to 63"),
        (f"shop\x00 {HASH}", "a name has 1 to 63"),
        (f"a/b={SHOP} {HASH}", "a name has 1 to 63"),
        (f"first {HASH}", "it has the name of keys.txt line 2"),
        (f"second {'sha256:' + 64 * 'B'}", "it has the key of keys.txt line 2"),
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(line: str, rule: str) -> None:
    content = f"# keys\nfirst sha256:{64 * 'b'}\n\n{line}\n".encode()
    with pytest.raises(UserError) as caught:
        parse_keys(content, "keys.txt")
    assert str(caught.value).startswith("keys.txt line 4: ")
    assert rule in str(caught.value)
    assert SHOP not in str(caught.value)


def test_what_a_file_may_hold() -> None:
    text = f"\ufeff# größer\n\n \t\r\na.B_c-9 {HASH[:7]}{64 * 'A'} 600 # comment\r\n#x {HASH}\n0\t sha256:{64 * 'c'}"
    assert [(key.name, key.requests_per_minute) for key in parse_keys(text.encode(), "f")] == [
        ("a.B_c-9", 600),
        ("0", None),
    ]
    assert parse_keys(b"", "f") == []


@pytest.mark.parametrize(
    ("content", "rule"), [(b"\xff\xfe", "not UTF-8"), (b"#" * (MAX_FILE_BYTES + 1), "larger than 1,048,576 bytes")]
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, rule: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rule):
        ring(path)


def test_a_missing_or_wrong_file_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\).*raystill key NAME --file"):
        ring(tmp_path / "keys.txt")
    with pytest.raises(UserError, match="not a regular file"):
        ring(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        ring(tmp_path / "pipe")
    with pytest.raises(UserError, match="No such file"):
        KeyRing(KeysConfig(file=""))


def test_keys_of_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = new_key(), "c2VjcmV0=="
    monkeypatch.setenv("ENDPOINT_KEYS", f"one={one}, two={two}")
    keys = ring(file, variable="ENDPOINT_KEYS")
    assert [name(keys, key) for key in (one, two, SHOP, "two")] == ["one", "two", "shop", None]
    assert one not in repr(vars(keys))
    monkeypatch.setenv("ENDPOINT_KEYS", f"shop={one}")
    with pytest.raises(
        UserError, match=r"keys.txt line 3: it has the name of environment variable ENDPOINT_KEYS pair 1"
    ):
        ring(file, variable="ENDPOINT_KEYS")


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_holds_nothing_does_not_open_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("ENDPOINT_KEYS", raising=False)
    if value is not None:
        monkeypatch.setenv("ENDPOINT_KEYS", value)
    with pytest.raises(UserError, match=r"ENDPOINT_KEYS: .*empty or not set"):
        ring(variable="ENDPOINT_KEYS")


@pytest.mark.parametrize(
    "pair", [SHOP, f"={SHOP}", f"a b={SHOP}", "b=", f"b={SHOP} x", "b=schlüssel", f"b={600 * 'x'}", "", f"a={SHOP}"]
)
def test_a_wrong_pair_is_named_and_not_repeated(pair: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_pairs(f"a=first,{pair}", "ENDPOINT_KEYS")
    assert str(caught.value).startswith("environment variable ENDPOINT_KEYS pair 2: ")
    assert SHOP not in str(caught.value)


def test_a_removed_line_revokes_its_key_and_a_new_one_counts(file: Path, clock: Clock) -> None:
    keys, added = ring(file, clock), new_key()
    replace(file, f"{key_line('nightly', NIGHTLY)}\n{key_line('added', added)}\n")
    clock.now = 0.9  # not looked at more than once a second
    assert [name(keys, key) for key in (SHOP, NIGHTLY, added)] == ["shop", "nightly", None]
    clock.now = 1.0
    assert [name(keys, key) for key in (SHOP, NIGHTLY, added)] == [None, "nightly", "added"]
    file.write_text("")  # in place
    clock.now = 2.0
    assert [name(keys, key) for key in (SHOP, NIGHTLY, added)] == [None, None, None]
    assert not keys.open


def test_an_unchanged_file_is_not_read_again(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ring(file, clock)
    monkeypatch.setattr("serving.api.api_keys.parse_keys", lambda *_: pytest.fail("it was read"))
    for clock.now in range(5):
        assert name(keys, SHOP) == "shop"


def test_a_half_written_missing_or_unreadable_file_locks_nobody_out(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keys, whole = ring(file, clock), file.read_text()

    def looked(problem: str) -> None:
        caplog.clear()
        for _ in range(3):
            clock.now += 1
            assert (name(keys, SHOP), name(keys, NIGHTLY)) == ("shop", "nightly")
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert problem in caplog.text
        assert SHOP not in caplog.text

    file.write_text(whole[: whole.index("nightly") + 30])
    looked("keys.txt line 4: after the name comes")
    file.write_text(f"shop {SHOP}")
    looked("keys.txt line 1: after the name comes")
    file.unlink()
    looked("No such file or directory")
    file.mkdir()
    looked("not a regular file")
    file.rmdir()
    file.write_text(key_line("nightly", NIGHTLY))
    clock.now += 1
    assert (name(keys, SHOP), name(keys, NIGHTLY)) == (None, "nightly")


def test_a_file_that_could_not_be_opened_is_tried_again(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its mode is mended: neither size nor time of the file change by that."""
    keys = ring(file, clock)
    replace(file, key_line("nightly", NIGHTLY))

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    clock.now = 1
    assert name(keys, SHOP) == "shop"
    monkeypatch.undo()
    clock.now = 2
    assert name(keys, SHOP) is None
    assert caplog.text.count("Permission denied") == 1


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The wall clock, by which the moving window counts."""
    wall = Clock()
    wall.now = 1_000_000.0
    monkeypatch.setattr(time, "time", wall)
    return wall


def uses(keys: KeyRing, key: str, times: int) -> int:
    """How many of them are let through."""

    async def ask() -> list[str]:
        refused = []
        for _ in range(times):
            try:
                await keys.check(f"Bearer {key}")
            except ApiError as error:
                refused.append(error.code)
        return refused

    refused = asyncio.run(ask())
    assert set(refused) <= {"rate_limited"}
    return times - len(refused)


def test_each_key_has_its_own_limit(file: Path, wall: Clock) -> None:
    file.write_text(f"{key_line('shop', SHOP, 5)}\n{key_line('nightly', NIGHTLY)}\n")
    keys = ring(file, requests_per_minute=3)
    assert (uses(keys, SHOP, 9), uses(keys, NIGHTLY, 9)) == (5, 3)
    unlimited = ring(file)
    assert (uses(unlimited, SHOP, 9), uses(unlimited, NIGHTLY, 9)) == (5, 9)


def test_retry_after_is_when_the_oldest_use_is_a_minute_old(file: Path, wall: Clock) -> None:
    keys = ring(file, requests_per_minute=2)
    assert uses(keys, SHOP, 1) == 1
    wall.now += 20.5
    assert uses(keys, SHOP, 1) == 1
    error = refusal(keys, f"Bearer {SHOP}")
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limited", 40)
    assert error.message == "key shop may be used 2 times a minute; try again in 40 s"
    assert error.response().headers["Retry-After"] == "40"
    wall.now += 39.45
    assert refusal(keys, f"Bearer {SHOP}").retry_after_s == 1
    wall.now += 0.55
    assert uses(keys, SHOP, 3) == 1  # the refused ones did not count


def test_what_was_counted_stays_through_a_change_of_the_file(file: Path, clock: Clock, wall: Clock) -> None:
    keys = ring(file, clock, requests_per_minute=4)
    assert uses(keys, SHOP, 3) == 3
    replace(file, key_line("shop", SHOP))
    clock.now = 1
    assert name(keys, NIGHTLY) is None
    assert uses(keys, SHOP, 3) == 1


@pytest.mark.parametrize(("limit", "share", "passed"), [(10, 1, 10), (10, 3, 3), (2, 5, 1)])
def test_replicas_share_a_limit(file: Path, wall: Clock, limit: int, share: int, passed: int) -> None:
    assert uses(ring(file, share=share, requests_per_minute=limit), SHOP, 20) == passed


def test_refused_keys_use_up_nobody_s_limit(file: Path, wall: Clock) -> None:
    keys = ring(file, requests_per_minute=1)
    assert name(keys, "unknown") is None
    assert refusal(keys, None).status == 401
    assert uses(keys, SHOP, 1) == 1
