from pathlib import Path

import pytest

from pipelines.storage.store import Store
from pipelines.train.checks import token_settings
from pipelines.train.data.batch_plan import BatchPlan
from pipelines.train.data.collate import MicroBatch
from pipelines.train.data.loader import Loader
from pipelines.train.data.token_table import Tokens
from pipelines.train.data.tokenise import tokenise
from pipelines.train.engine.worker import make_plan
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokens, BatchPlan]:
    output = tmp_path_factory.mktemp("loader")
    write_labels(output, label_rows(40))
    run = make_run(output, make_model("decoder-only", output / "model"))
    tokenise(Store(str(output / "labels")), token_settings(run), Store(str(output / "tokens")))
    tokens = Tokens(Store(str(output / "tokens")), Path(output))
    return tokens, make_plan(tokens, run, "decoder-only", 2)


def loader(made: tuple[Tokens, BatchPlan], rank: int = 0, gpu: bool = False) -> Loader:
    return Loader(made[1], made[0], rank, pad=0, start=None, gpu=gpu)


def targets(batches: list[MicroBatch]) -> list[list[int]]:
    return [batch.targets.tolist() for batch in batches]


def test_each_worker_gets_its_part_of_every_step(made: tuple[Tokens, BatchPlan]) -> None:
    tokens, plan = made
    for rank in range(2):
        ours = loader(made, rank)
        for step in range(plan.steps):
            parts = plan.step(step)[rank]
            expected = [sorted(t for s in part for t in tokens.sequence(int(s)).target) for part in parts]
            assert [part or [0] for part in expected] == [sorted(part) for part in targets(ours.step(step))]
        assert ours.waited_s > 0


def test_any_step_may_be_the_first_and_dropout_is_unaffected(made: tuple[Tokens, BatchPlan]) -> None:
    whole, other = loader(made), loader(made)
    torch.manual_seed(1)
    random_state = torch.get_rng_state()
    steps = [targets(whole.step(step)) for step in range(made[1].steps)]
    assert [targets(other.step(step)) for step in (3, 4, 0, 1)] == [steps[step] for step in (3, 4, 0, 1)]
    assert torch.equal(torch.get_rng_state(), random_state), "the training's random numbers stay"


def test_processes_beside_a_gpu_make_the_same(made: tuple[Tokens, BatchPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import data

    loaded = data.DataLoader
    # Memory can be pinned only for a GPU.
    monkeypatch.setattr(data, "DataLoader", lambda *args, pin_memory=False, **more: loaded(*args, **more))
    plain, ahead = loader(made, 1), loader(made, 1, gpu=True)
    for step in range(made[1].steps):
        assert targets(ahead.step(step)) == targets(plain.step(step))
