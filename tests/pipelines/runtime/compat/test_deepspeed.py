"""DeepSpeed's private names. On real engines: tests/integration/test_checkpoints.py."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.runtime.compat import deepspeed as compat


def engine(**attributes: Any) -> Any:
    return SimpleNamespace(optimizer=SimpleNamespace(**attributes))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("fp32_partitioned_groups_flat", lambda: compat.sharded_weights(engine())),
        ("_hp_optimizer_states_linked", lambda: compat.link_moments(engine())),
        ("_lazy_init_hp_params_optimizer_state", lambda: compat.link_moments(engine(_hp_optimizer_states_linked=True))),
    ],
)  # fmt: skip
def test_an_attribute_that_deepspeed_dropped_is_one_error(name: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=rf"deepspeed 0\.[\d.]+: it has no .*{name}, which Raystill needs"):
        call()


def test_a_dropped_table_of_operators_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = pytest.importorskip("deepspeed")
    monkeypatch.setattr(deepspeed, "ops", SimpleNamespace())
    with pytest.raises(UserError, match=r"it has no deepspeed\.ops\.__compatible_ops__"):
        compat.disable_compiled_collective()


@pytest.mark.parametrize("linked", [True, False])
def test_moments_are_linked_even_if_they_were_before(linked: bool) -> None:
    states = []
    made = engine(_hp_optimizer_states_linked=linked)
    made.optimizer._lazy_init_hp_params_optimizer_state = lambda: states.append(
        made.optimizer._hp_optimizer_states_linked
    )
    compat.link_moments(made)
    assert states == [False], "DeepSpeed links only what it believes unlinked"
