import hashlib
import itertools
import os
import random
import subprocess
import sys

import pytest

from pipelines.data import near_duplicates
from pipelines.data.near_duplicates import NearDuplicates, Neighbours, shingles, signature, similarity

TEXT = "Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?"
WORDS = [f"word{i}" for i in range(2000)]


def made(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def changed(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] = f"other{place}"
    return " ".join(words)


def jaccard(one: str, other: str) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anne has 4 apples.", {b"anne has 4", b"has 4 apples"}),
        ("ANNE  has 4\napples!", {b"anne has 4", b"has 4 apples"}),
        ("Four apples", {b"four", b"apples"}), ("?!", {b"?!"}), ("\uff14 \uff52ed apples", {b"4 red apples"}),
        ("\u82f9\u679c4", {"\u82f9 \u679c 4".encode()}),
    ],
)  # fmt: skip
def test_shingles(text: str, expected: set[bytes]) -> None:
    assert shingles(text) == expected


def test_a_signature_is_the_same_in_every_process() -> None:
    code = f"from pipelines.data.near_duplicates import signature; print(signature({TEXT!r}).hex())"
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == signature(TEXT).hex()
    assert len(signature(TEXT)) == near_duplicates.SIGNATURE_BYTES
    # A change would let a resumed run decide differently.
    assert hashlib.sha256(signature(TEXT)).hexdigest()[:16] == "c4191cb3a0c4ec00"


def test_similarity_is_estimated_within_its_error() -> None:
    for seed, count in itertools.product(range(20), (1, 3, 6)):
        one = made(seed, 60)
        other = changed(one, *range(5, 5 + 7 * count, 7))
        assert abs(similarity(signature(one), signature(other)) - jaccard(one, other)) < 0.15


def test_bands_have_the_promised_recall() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        count, size = near_duplicates.bands(threshold)
        assert count * size <= near_duplicates.PERMUTATIONS
        assert 1 - (1 - threshold**size) ** count >= near_duplicates.MIN_RECALL


def test_the_search_finds_what_an_exhaustive_one_finds() -> None:
    texts = [changed(made(seed), *random.Random(copy).sample(range(40), 1)) for seed in range(60) for copy in range(3)]
    random.Random(0).shuffle(texts)
    signatures = [signature(text) for text in texts]
    seen, kept = NearDuplicates(0.7), list[int]()
    for i, mine in enumerate(signatures):
        expected = next((k for k in kept if similarity(signatures[k], mine) >= 0.7), None)
        assert seen.earlier(i, mine) == expected
        if expected is None:
            kept.append(i)
    assert 60 <= len(kept) < 100


def test_many_rows_with_one_band_cost_a_bounded_search() -> None:
    half = made(1, 30)
    seen = NearDuplicates(0.9)
    for i in range(5 * near_duplicates.MAX_BUCKET):
        assert seen.earlier(i, signature(f"{half} {made(i + 2, 20)}")) is None
    assert max(len(v) for t in seen._tables for v in t.values() if isinstance(v, tuple)) <= near_duplicates.MAX_BUCKET


def test_neighbours_searches_full_buckets() -> None:
    base = made(1)
    places = (random.Random(i).sample(range(40), 2) for i in range(3 * near_duplicates.MAX_BUCKET))
    signatures = [signature(changed(base, *two)) for two in places]
    expected = {i for i, one in enumerate(signatures) if similarity(one, signature(base)) >= 0.7}
    found = Neighbours(signatures, 0.7).of(signature(base))
    assert len(found) > near_duplicates.MAX_BUCKET
    assert set(found) <= expected
    assert len(found) >= near_duplicates.MIN_RECALL * len(expected)
    among = Neighbours([signature(text) for text in (base, made(2), changed(base, 20), base)], 0.75)
    assert among.of(signature(changed(base, 5))) == [0, 3], "of the third it shares 32 of 44 3-grams"
    assert (among.of(signature(base)), among.of(signature(made(4)))) == ([0, 2, 3], [])
    assert Neighbours([], 0.75).of(signature(base)) == []
