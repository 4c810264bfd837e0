"""API keys: the key file, the check of a header, reloads, limits."""

import asyncio
import hashlib
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from ray.serve.exceptions import RayServeException

from pipelines.config.serving import KeysConfig
from pipelines.errors import UserError
from serving.api.api_keys import MAX_FILE_BYTES, KeyRing, key_line, new_key, parse_keys, parse_pairs
from serving.api.errors import ApiError
from serving.api.key_limits import KeyLimits, LimitCounter, SharedLimits
from tests.support.clock import Clock


def ring(file: Path | None = None, clock: Any = None, limits: KeyLimits | None = None, **config: Any) -> KeyRing:
    config |= {"file": str(file)} if file else {}
    return KeyRing(KeysConfig(**config), limits, clock=clock or Clock())


def names(keys: KeyRing, *presented: str) -> list[str | None]:
    """The name under which each key is accepted; None for an invalid key, otherwise the error's code."""
    found: list[str | None] = []
    for key in presented:
        try:
            found.append(asyncio.run(keys.check(f"Bearer {key}")))
        except ApiError as error:
            found.append(None if error.code == "invalid_key" else error.code)
    return found


def refusal(keys: KeyRing, authorization: str | None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asyncio.run(keys.check(authorization))
    return caught.value


def accepted(keys: KeyRing, key: str, times: int) -> int:
    """How many requests of a key are within its limit."""
    found = names(keys, *[key] * times)
    assert set(found) <= {"shop", "nightly", "rate_limited"}
    return times - found.count("rate_limited")


# As `new_key` makes them, but constant, as test ids contain them.
SHOP, NIGHTLY = f"rs-{8 * 'Shop_'}Key", f"rs-{8 * 'Night'}Key"
HASH = "sha256:" + 64 * "a"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The wall clock, which the moving window reads."""
    wall = Clock(1_000_000.0)
    monkeypatch.setattr(time, "time", wall)
    return wall


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"# comment\n\n{key_line('shop', SHOP)}\n  {key_line('nightly', NIGHTLY)}  # the batch job\r\n")
    return path


def test_an_endpoint_without_keys_is_open() -> None:
    assert ring().open
    assert [asyncio.run(ring().check(header)) for header in (None, "Bearer whatever")] == [None, None]


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "Bearer {}  "])
def test_a_key_is_accepted_under_its_name(file: Path, form: str) -> None:
    keys = ring(file)
    assert not keys.open
    assert asyncio.run(keys.check(form.format(SHOP))) == "shop"
    assert names(keys, NIGHTLY, new_key()) == ["nightly", None]
    assert key_line("shop", SHOP, 60) == f"shop sha256:{hashlib.sha256(SHOP.encode()).hexdigest()} 60"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        *[
            (header, "missing_key")
            for header in (None, "", " ", "Bearer", "Bearer ", "Bearer    ", SHOP, f"Basic {SHOP}", f"Bearer\t{SHOP}", f" Bearer {SHOP}",
                           f"Key {SHOP}", "\x00", "\xe9", 1_000_000 * "x")
        ],
        *[
            (f"Bearer {key}", "invalid_key")
            for key in ("x", SHOP[:-1], SHOP + "x", SHOP.swapcase(), "shop", HASH, hashlib.sha256(SHOP.encode()).hexdigest(),
                        f"{SHOP} {SHOP}", f"{SHOP}\x00", f"{SHOP}\n", f"\x00{SHOP}", f"{SHOP}\xa0", "\xe9\xff", "\ud800", "ключ", "🔑",
                        10_000_000 * "x", "%s %n {0}")
        ],
    ],
)  # fmt: skip
def test_a_missing_or_wrong_key_gets_401(file: Path, authorization: str | None, code: str) -> None:
    error = refusal(ring(file), authorization)
    assert (error.status_code, error.code) == (401, code)
    assert "Authorization: Bearer KEY" in error.message
    presented = (authorization or "").partition(" ")[2].strip()
    assert SHOP not in error.message
    assert not presented or presented not in error.message
    assert len(error.message) < 200
    assert error.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        *[
            (line, "`sha256:` and 64 hexadecimal digits")
            for line in (SHOP, f"shop {SHOP}", f"shop sha256:{SHOP}", f"shop {HASH[:-1]}", f"shop {HASH}a")
        ],
        *[(f"shop {HASH} {limit}", "from 1 to 9999999") for limit in ("0", "-5", "1.5", "٣", "99999999", f"5 {SHOP}")],
        *[(f"{name} {HASH}", "a name has 1 to 63") for name in ("-shop", 64 * "s", "sh\xf6p", "shop\x00", f"a/b={SHOP}")],
        (f"first {HASH}", "it has the same name as keys.txt line 2"),
        (f"second {'sha256:' + 64 * 'B'}", "it has the same key as keys.txt line 2"),
    ],
)  # fmt: skip
def test_an_invalid_line_is_named_and_not_repeated(line: str, rule: str) -> None:
    with pytest.raises(UserError, match=r"keys\.txt line 4: ") as caught:
        parse_keys(f"# keys\nfirst sha256:{64 * 'b'}\n\n{line}\n".encode(), "keys.txt")
    assert rule in str(caught.value)
    assert SHOP not in str(caught.value)


@pytest.mark.parametrize(
    "pair", [SHOP, f"={SHOP}", f"a b={SHOP}", "b=", f"b={SHOP} x", "b=schlüssel", f"b={600 * 'x'}", "", f"a={SHOP}"]
)
def test_an_invalid_pair_is_named_and_not_repeated(pair: str) -> None:
    with pytest.raises(UserError, match="environment variable KEYS pair 2: ") as caught:
        parse_pairs(f"a=first,{pair}", "KEYS")
    assert SHOP not in str(caught.value)


def test_a_file_may_hold_comments_and_limits() -> None:
    text = f"\ufeff# größer\n\n \t\r\na.B_c-9 {HASH[:7]}{64 * 'A'} 600 # comment\r\n#x {HASH}\n0\t sha256:{64 * 'c'}"
    found = [(key.name, key.requests_per_minute) for key in parse_keys(text.encode(), "f")]
    assert found == [("a.B_c-9", 600), ("0", None)]
    assert parse_keys(b"", "f") == []


def test_an_unusable_file_fails_the_start(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("binary", "large", "missing", "pipe")}
    paths["binary"].write_bytes(b"\xff\xfe")
    paths["large"].write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    os.mkfifo(paths["pipe"])
    missing = r"cannot be read \(No such file or directory\).*raystill key NAME --file"
    rules = {"binary": "not UTF-8", "large": "larger than 1,048,576", "missing": missing, "pipe": "not a regular file"}
    for name, rule in rules.items():
        with pytest.raises(UserError, match=rule):
            ring(paths[name])
    with pytest.raises(UserError, match="not a regular file"):
        ring(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        KeyRing(KeysConfig(file=""))


def test_a_variable_adds_keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = new_key(), "c2VjcmV0=="
    monkeypatch.setenv("KEYS", f"one={one}, two={two}")
    keys = ring(file, variable="KEYS")
    assert names(keys, one, two, SHOP, "two") == ["one", "two", "shop", None]
    assert one not in repr(vars(keys))
    monkeypatch.setenv("KEYS", f"shop={one}")
    with pytest.raises(UserError, match=r"keys.txt line 3: it has the same name as environment variable KEYS pair 1"):
        ring(file, variable="KEYS")
    for variable, value in (("KEYS", ""), ("KEYS", "  "), ("NOT_SET", "")):
        monkeypatch.setenv("KEYS", value)
        with pytest.raises(UserError, match=rf"{variable}: .*empty or not set"):
            ring(variable=variable)


def test_a_change_of_the_file_revokes_and_adds_keys(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, added = ring(file, clock), new_key()
    with monkeypatch.context() as patch:
        patch.setattr("serving.api.api_keys.parse_keys", lambda *_: pytest.fail("it was read"))
        for clock.now in (2.0, 4.0, 6.0):
            assert names(keys, SHOP) == ["shop"]
    (new := file.with_suffix(".new")).write_text(f"{key_line('nightly', NIGHTLY)}\n{key_line('added', added)}\n")
    os.replace(new, file)
    clock.now = 6.9  # read at most once a second
    assert names(keys, SHOP, NIGHTLY, added) == ["shop", "nightly", None]
    clock.now = 7.0
    assert names(keys, SHOP, NIGHTLY, added) == [None, "nightly", "added"]
    file.write_text("")  # in place
    clock.now = 8.0
    assert names(keys, SHOP, NIGHTLY, added) == [None, None, None]
    assert not keys.open


def test_an_invalid_file_locks_nobody_out(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half-written, missing or unreadable: the keys from before stay valid, and the problem is logged once."""
    keys, whole = ring(file, clock), file.read_text()

    def reloads_log(problem: str) -> None:
        caplog.clear()
        for _ in range(3):
            clock.now += 1
            assert names(keys, SHOP, NIGHTLY) == ["shop", "nightly"]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert problem in caplog.text
        assert SHOP not in caplog.text

    file.write_text(whole[: whole.index("nightly") + 30])
    reloads_log("keys.txt line 4: the name must be followed")
    file.write_text(f"shop {SHOP}")
    reloads_log("keys.txt line 1: the name must be followed")
    file.unlink()
    reloads_log("No such file or directory")
    file.mkdir()
    reloads_log("not a regular file")
    file.rmdir()
    file.write_text(key_line("nightly", NIGHTLY))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
        reloads_log("Permission denied")
    # A changed mode changes neither size nor time of the file.
    clock.now += 1
    assert names(keys, SHOP, NIGHTLY) == [None, "nightly"]


def test_each_key_has_its_own_limit(file: Path, wall: Clock) -> None:
    file.write_text(f"{key_line('shop', SHOP, 5)}\n{key_line('nightly', NIGHTLY)}\n")
    keys = ring(file, requests_per_minute=3)
    assert names(keys, "unknown") == [None]
    assert refusal(keys, None).status_code == 401
    assert (accepted(keys, SHOP, 9), accepted(keys, NIGHTLY, 9)) == (5, 3)
    unlimited = ring(file)
    assert (accepted(unlimited, SHOP, 9), accepted(unlimited, NIGHTLY, 9)) == (5, 9)


def test_retry_after_waits_for_the_oldest_use(file: Path, wall: Clock) -> None:
    keys = ring(file, requests_per_minute=2)
    assert accepted(keys, SHOP, 1) == 1
    wall.now += 20.5
    assert accepted(keys, SHOP, 1) == 1
    error = refusal(keys, f"Bearer {SHOP}")
    assert (error.status_code, error.code, error.retry_after_s) == (429, "rate_limited", 40)
    assert error.message == "key shop allows 2 requests per minute; try again in 40 s"
    assert 40 <= int(error.headers["Retry-After"]) <= 45, "clients shall not come back together"
    wall.now += 39.45
    assert refusal(keys, f"Bearer {SHOP}").retry_after_s == 1
    wall.now += 0.55
    assert accepted(keys, SHOP, 3) == 1  # refused requests did not count


def test_counts_survive_a_change_of_the_file(file: Path, clock: Clock, wall: Clock) -> None:
    keys = ring(file, clock, requests_per_minute=4)
    assert accepted(keys, SHOP, 3) == 3
    file.write_text(key_line("shop", SHOP))
    clock.now = 1
    assert names(keys, NIGHTLY) == [None]
    assert accepted(keys, SHOP, 3) == 1


@pytest.mark.parametrize(("counter", "passed"), [(LimitCounter(), 9), (None, 2 * 3)])
def test_ingress_replicas_share_a_limit(file: Path, wall: Clock, counter: LimitCounter | None, passed: int) -> None:
    """Three replicas, of which two get requests. Without an answer of the counter each allows its part."""
    shared = [ring(file, limits=SharedLimits(handle_of(counter), 3), requests_per_minute=9) for _ in range(2)]
    assert sum(accepted(keys, SHOP, 8) for keys in shared) == passed
    assert refusal(shared[0], f"Bearer {SHOP}").message == "key shop allows 9 requests per minute; try again in 60 s"


def handle_of(counter: LimitCounter | None) -> Any:
    """Serve's handle of a counter; of None: one that fails."""
    failing = AsyncMock(side_effect=RayServeException("no replica"))
    methods = {name: getattr(counter, name) if counter else failing for name in ("count", "spend")}
    return SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})


def used_up(*requests: tuple[KeyRing, int, int]) -> list[str]:
    """Message of the refusal of each request, of (keys, inputs, tokens); empty if it is admitted."""

    async def one(keys: KeyRing, inputs: int, tokens: int) -> str:
        try:
            await keys.admit("shop", inputs)
        except ApiError as error:
            return f"{error.status_code} {error.code}: {error.message}"
        await keys.spend("shop", tokens)
        return ""

    async def all_of_them() -> list[str]:
        return [await one(*request) for request in requests]

    return asyncio.run(all_of_them())


def test_inputs_and_tokens_have_limits(file: Path) -> None:
    first, other = (ring(file, inputs_per_minute=10, tokens_per_minute=1000) for _ in range(2))
    whole, free = ring(file, inputs_per_minute=10), ring(file)
    found = used_up(*((first, inputs, 0) for inputs in (4, 6, 1)), (other, 1, 999), (other, 1, 5000), (other, 1, 0),
                    (whole, 500, 0), (free, 10**6, 10**9))  # fmt: skip
    assert [bool(message) for message in found] == [False, False, True, False, False, True, False, False]
    assert found[2].startswith("429 rate_limited: key shop allows 10 inputs per minute; try again in ")
    assert found[5].startswith("429 rate_limited: key shop allows 1,000 tokens per minute; try again in ")
    limits = SharedLimits(handle_of(LimitCounter()), 2)
    inputs = [ring(file, limits=limits, inputs_per_minute=10) for _ in range(2)]
    tokens = [ring(file, limits=limits, tokens_per_minute=100) for _ in range(2)]
    found = used_up((inputs[0], 6, 0), (inputs[1], 4, 0), (inputs[0], 1, 0), (tokens[0], 1, 500), (tokens[1], 1, 0))
    assert [bool(message) for message in found] == [False, False, True, False, True]
    assert "allows 10 inputs" in found[2]
    assert "allows 100 tokens" in found[4]
