"""The feed: the plan's micro-batches in order, from whichever step is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import Store
from pipelines.train.checks import token_settings
from pipelines.train.data.loader import Loader
from pipelines.train.data.token_table import Tokens, tokenise
from pipelines.train.engine.worker import make_plan
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokens, Any]:
    output = tmp_path_factory.mktemp("feed")
    write_labels(output, label_rows(40))
    run = make_run(output, make_model("decoder-only", output / "model"))
    tokenise(Store(str(output / "labels")), token_settings(run), Store(str(output / "tokens")))
    tokens = Tokens(Store(str(output / "tokens")), Path(output))
    return tokens, make_plan(tokens, run, "decoder-only", 2)


def targets(micros: list[dict[str, Any]]) -> list[list[int]]:
    return [micro["targets"].tolist() for micro in micros]


def test_each_worker_gets_its_part_of_every_step(made: tuple[Tokens, Any]) -> None:
    tokens, plan = made
    feeds = [Loader(plan, tokens, rank, pad=0, start=None, gpu=False) for rank in range(2)]
    for step in range(plan.steps):
        for rank, feed in enumerate(feeds):
            wanted = [
                sorted(token for s in part for token in tokens.sequence(int(s)).target)
                for part in plan.step(step)[rank]
            ]
            found = [sorted(part) for part in targets(feed(step))]
            assert [part or [0] for part in wanted] == found
    assert all(feed.waited_s > 0 for feed in feeds)


def test_it_begins_anywhere_and_again(made: tuple[Tokens, Any]) -> None:
    tokens, plan = made
    whole, other = (Loader(plan, tokens, 0, pad=0, start=None, gpu=False) for _ in range(2))
    steps = [targets(whole(step)) for step in range(plan.steps)]
    assert [targets(other(step)) for step in (3, 4, 0, 1)] == [steps[step] for step in (3, 4, 0, 1)]


def test_loaders_beside_a_gpu_make_the_same(made: tuple[Tokens, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, plan = made
    from torch.utils import data

    plain = Loader(plan, tokens, 1, pad=0, start=None, gpu=False)
    loader = data.DataLoader
    # Without a GPU there is no memory to pin.
    monkeypatch.setattr(data, "DataLoader", lambda *args, pin_memory=False, **more: loader(*args, **more))
    ahead = Loader(plan, tokens, 1, pad=0, start=None, gpu=True)
    for step in range(plan.steps):
        assert targets(ahead(step)) == targets(plain(step))


def test_it_draws_no_random_numbers_of_the_training(made: tuple[Tokens, Any]) -> None:
    tokens, plan = made
    feed = Loader(plan, tokens, 0, pad=0, start=None, gpu=False)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    feed(0), feed(3)
    assert torch.equal(torch.get_rng_state(), before)
