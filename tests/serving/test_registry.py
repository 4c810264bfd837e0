"""Names, versions and shares."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pipelines.errors import UserError
from serving.messages import UnavailableError
from serving.registry import Registry, shares_of
from tests.support.fake_students import card

VERSIONS = [card("sums", version="old"), card("sums", version="new"), card("pairs")]


def test_a_name_goes_to_its_versions_by_their_shares() -> None:
    roster = Registry(VERSIONS, {"sums": {"new": 10.0}})
    chance = random.Random(0)
    found = Counter(card.id for _ in range(10_000) if (card := roster.card("sums", chance)))
    assert set(found) == {"sums@old", "sums@new"}
    assert 900 < found["sums@new"] < 1100
    assert roster.shares("sums") == {"old": 90.0, "new": 10.0}
    assert roster.shares("pairs") == {}


def test_versions_have_names_of_their_own() -> None:
    roster = Registry(VERSIONS, {"sums": {"new": 0.0}})
    for name in ("sums@new", "sums@old", "pairs"):
        assert (found := roster.card(name, random.Random(0))) is not None
        assert found.id == name
    assert all(roster.card("sums", random.Random(seed)) == VERSIONS[0] for seed in range(50))
    assert roster.ids == ["sums", "pairs", "sums@old", "sums@new"]
    assert roster.card(None, random.Random(0)) is None, "there are two names"
    for name in ("sums@", "@new", "nobody", "sums@older"):
        with pytest.raises(KeyError):
            roster.card(name, random.Random(0))


def test_versions_of_the_only_name_need_none() -> None:
    roster = Registry(VERSIONS[:2], {"sums": {"new": 100.0}})
    assert roster.card(None, random.Random(0)) == VERSIONS[1]


def test_who_is_away_keeps_its_name_and_its_share() -> None:
    roster = Registry([VERSIONS[0]], {"sums": {"new": 50.0}}, {"sums@new": "gone", "pairs": "gone"})
    assert roster.ids == ["sums", "pairs", "sums@old", "sums@new"]
    assert roster.shares("sums") == {"old": 50.0, "new": 50.0}
    for name in ("sums@new", "pairs"):
        with pytest.raises(UnavailableError, match=name):
            roster.card(name, random.Random(0))
    found: Counter[str] = Counter()
    for seed in range(200):
        try:
            found[str(roster.card("sums", random.Random(seed)))] += 1
        except UnavailableError as error:
            found[str(error)] += 1
    assert set(found) == {str(VERSIONS[0]), "sums@new"}
    assert roster.card("sums@old", random.Random(0)) == VERSIONS[0]


def test_a_task_that_is_loaded_is_not_loaded_again() -> None:
    before = Registry(VERSIONS[:1])
    after = Registry(VERSIONS, tasks={**before.tasks, "gone": before.tasks["sums@old"]})
    assert after.tasks["sums@old"] is before.tasks["sums@old"]
    assert list(after.tasks) == ["sums@old", "sums@new", "pairs"]


def test_an_empty_roster_knows_nobody() -> None:
    assert Registry().card(None, random.Random(0)) is None


def test_shares_sum_up() -> None:
    assert shares_of("a", ["x", "y", "z"], {"x": 40.0}) == {"x": 40.0, "y": 30.0, "z": 30.0}
    assert shares_of("a", ["x", "y"], {}) == {"x": 50.0, "y": 50.0}
    assert shares_of("a", ["x"], {}) == {"x": 100.0}
    assert shares_of("a", ["x", "y"], {"x": 25.0, "y": 75.0}) == {"x": 25.0, "y": 75.0}


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"w": 10.0}, "there is no version w; there are: x, y"),
        ({"x": -1.0}, "percents"),
        ({"x": float("nan")}, "percents"),
        ({"x": 60.0, "y": 60.0}, "sum up to 120"),
        ({"x": 10.0, "y": 20.0}, "all its versions sum up to 30"),
    ],
)
def test_shares_that_cannot_be(named: dict[str, float], match: str) -> None:
    with pytest.raises(UserError, match=match):
        shares_of("a", ["x", "y"], named)


def test_a_split_of_a_name_without_versions() -> None:
    with pytest.raises(UserError, match="those that have: sums"):
        Registry(VERSIONS, {"pairs": {"new": 10.0}})
