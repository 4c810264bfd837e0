"""DeepSpeed's private names. On real engines: tests/integration/test_train.py."""

from types import SimpleNamespace

import pytest

from pipelines.errors import UserError
from pipelines.runtime.compat import deepspeed as compat


def test_a_dropped_table_of_operators_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = pytest.importorskip("deepspeed")
    monkeypatch.setattr(deepspeed, "ops", SimpleNamespace())
    with pytest.raises(UserError, match=r"it has no deepspeed\.ops\.__compatible_ops__"):
        compat.disable_compiled_collective()


@pytest.mark.parametrize("linked", [True, False])
def test_moments_are_linked_even_if_they_were_before(linked: bool) -> None:
    states: list[bool] = []
    optimizer = SimpleNamespace(_hp_optimizer_states_linked=linked)
    optimizer._lazy_init_hp_params_optimizer_state = lambda: states.append(optimizer._hp_optimizer_states_linked)
    compat.link_moments(SimpleNamespace(optimizer=optimizer))
    assert states == [False], "DeepSpeed links only what it believes unlinked"
