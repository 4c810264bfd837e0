import random
from collections import Counter

import pytest

from pipelines.errors import UserError
from serving.messages import UnavailableError
from serving.registry import Registry, TrafficSplit, shares_of
from tests.support.fake_students import card

VERSIONS = [card("sums", version="old"), card("sums", version="new"), card("pairs")]


def select(registry: Registry, name: str | None, seed: int = 0) -> str | None:
    """The id of the selected student; in parentheses if it is unavailable."""
    try:
        found = registry.select(name, random.Random(seed))
    except UnavailableError as error:
        return f"({error})"
    return found and found.id


def test_names_and_shares_select_a_version() -> None:
    registry = Registry(VERSIONS, {"sums": {"new": 10.0}})
    chance = random.Random(0)
    found = Counter(card.id for _ in range(10_000) if (card := registry.select("sums", chance)))
    assert set(found) == {"sums@old", "sums@new"}
    assert 900 < found["sums@new"] < 1100
    assert registry.shares("sums") == {"old": 90.0, "new": 10.0}
    assert registry.shares("pairs") == {}
    registry = Registry(VERSIONS, {"sums": {"new": 0.0}})
    for name in ("sums@new", "sums@old", "pairs"):
        assert select(registry, name) == name
    assert {select(registry, "sums", seed) for seed in range(50)} == {"sums@old"}
    assert registry.ids == ["sums", "pairs", "sums@old", "sums@new"]
    for name in ("sums@", "@new", "nobody", "sums@older"):
        with pytest.raises(KeyError):
            select(registry, name)
    assert select(Registry(VERSIONS[:2], {"sums": {"new": 100.0}}), None) == "sums@new"
    assert select(Registry(VERSIONS), None) is None
    assert select(Registry(), None) is None


def test_an_unavailable_student_keeps_name_and_share() -> None:
    registry = Registry([VERSIONS[0]], {"sums": {"new": 50.0}}, {"sums@new": "gone", "pairs": "gone"})
    assert registry.ids == ["sums", "pairs", "sums@old", "sums@new"]
    assert registry.shares("sums") == {"old": 50.0, "new": 50.0}
    assert [select(registry, name) for name in ("sums@new", "pairs")] == ["(sums@new)", "(pairs)"]
    assert {select(registry, "sums", seed) for seed in range(200)} == {"sums@old", "(sums@new)"}


@pytest.mark.parametrize(
    ("split", "starting", "found"),
    [
        ({"new": 50.0}, {"sums@new"}, {"sums@old"}),
        ({"new": 100.0}, {"sums@new"}, {"sums@old"}),
        ({"new": 50.0}, {"sums@old", "sums@new"}, {"sums@old", "sums@new"}),
        ({"new": 50.0}, {"pairs"}, {"sums@old", "sums@new"}),
    ],
    ids=["others get its share", "even without a share", "none runs", "another student"],
)
def test_a_version_gets_requests_once_it_runs(split: dict[str, float], starting: set[str], found: set[str]) -> None:
    registry = Registry(VERSIONS, {"sums": split}, starting=frozenset(starting))
    assert {select(registry, "sums", seed) for seed in range(50)} == found
    assert select(registry, "sums@new") == "sums@new", "named requests wait for it"
    assert registry.shares("sums")["new"] == split["new"]


def test_shares_sum_to_100() -> None:
    assert shares_of("a", ["x", "y", "z"], {"x": 40.0}) == {"x": 40.0, "y": 30.0, "z": 30.0}
    assert shares_of("a", ["x", "y"], {}) == {"x": 50.0, "y": 50.0}
    assert shares_of("a", ["x"], {}) == {"x": 100.0}
    assert shares_of("a", ["x", "y"], {"x": 25.0, "y": 75.0}) == {"x": 25.0, "y": 75.0}


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ({"sums": {"w": 10.0}}, "unknown version w; the versions are: old, new"),
        ({"sums": {"old": -1.0}}, "Give percentages from 0 to 100"),
        ({"sums": {"old": float("nan")}}, "Give percentages from 0 to 100"),
        ({"sums": {"old": 60.0, "new": 60.0}}, "sum to 120 percent"),
        ({"sums": {"old": 10.0, "new": 20.0}}, "all its versions sum to 30 percent"),
        ({"pairs": {"new": 10.0}}, r"split pairs: .*students with versions: sums"),
    ],
)
def test_an_impossible_split_is_refused(split: TrafficSplit, match: str) -> None:
    with pytest.raises(UserError, match=match):
        Registry(VERSIONS, split)
