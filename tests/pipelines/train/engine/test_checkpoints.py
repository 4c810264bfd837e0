"""Checkpoints are whole, and damage is found before they are read. Real engines: tests/integration/test_train.py."""

from pathlib import Path

import pytest

from pipelines.train.engine.checkpoints import find_damage, load, read_state, save
from pipelines.train.engine.deepspeed_engine import parameter_groups
from tests.support.trained_outputs import engine_without_zero

torch = pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for rank in range(2):
        save(engine_without_zero(), {"step": 2, "history": [1.5]}, tmp_path, rank, 2)
    return tmp_path


def test_a_loaded_checkpoint_equals_the_saved_engine(folder: Path) -> None:
    assert find_damage(folder) is None
    assert read_state(folder) == {"step": 2, "history": [1.5]}
    saved, other = engine_without_zero(), engine_without_zero(seed=1, steps=0)
    load(other, folder, 2)
    for mine, theirs in zip(other.module.model.parameters(), saved.module.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(other.optimizer.state[mine][key], saved.optimizer.state[theirs][key])


def test_damage_is_found(folder: Path) -> None:
    part = folder / "part-00001-of-00002.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-5])
    assert f"{len(whole) - 5:,} of {len(whole):,} bytes" in (find_damage(folder) or "")
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert find_damage(folder) == f"{part.name} is damaged"
    part.unlink()
    assert find_damage(folder) == f"{part.name} is missing"
    (folder / "state.json").write_text('{"parts": ')
    assert "unreadable" in (find_damage(folder) or "")
    (folder / "state.json").unlink()
    assert find_damage(folder) == "state.json is missing"


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    other = engine_without_zero()
    other.module.model.append(torch.nn.Linear(2, 2))
    other.optimizer = torch.optim.AdamW(parameter_groups(other.module.model, 0.1))
    with pytest.raises(ValueError, match=r"no weight 2\.weight"):
        load(other, folder, 2)
