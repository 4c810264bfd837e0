"""What makes a checkpoint unusable is seen before it is read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.train.engine.checkpoints import load, problem, read_state, save

torch = pytest.importorskip("torch")


class Model(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)


def engine(seed: int = 0, steps: int = 2) -> Any:
    """What `checkpoints` knows of an engine without ZeRO: a model and the optimizer beneath it."""
    model = Model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model.second(model.first(torch.ones(4, 3))).pow(2).sum().backward()
        optimizer.step()
    return SimpleNamespace(module=SimpleNamespace(model=model), basic_optimizer=optimizer, optimizer=None, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for rank in range(2):
        save(engine(), {"step": 2, "history": [1.5]}, tmp_path, rank, 2)
    return tmp_path


def test_what_is_loaded_is_what_was_saved(folder: Path) -> None:
    assert problem(folder) is None
    assert read_state(folder) == {"step": 2, "history": [1.5]}
    saved, other = engine(), engine(seed=1, steps=0)
    load(other, folder, 2)
    for mine, theirs in zip(other.module.model.parameters(), saved.module.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(other.basic_optimizer.state[mine][key], saved.basic_optimizer.state[theirs][key])


def test_damage_is_found(folder: Path) -> None:
    part = folder / "part-00001-of-00002.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-5])
    assert f"{len(whole) - 5:,} of {len(whole):,} bytes" in (problem(folder) or "")
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert problem(folder) == f"{part.name} is damaged"
    part.unlink()
    assert problem(folder) == f"{part.name} is missing"
    (folder / "state.json").write_text('{"parts": ')
    assert "unreadable" in (problem(folder) or "")
    (folder / "state.json").unlink()
    assert problem(folder) == "state.json is missing"


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    other = engine()
    other.module.model.third = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"no weight third\.weight"):
        load(other, folder, 2)
