"""DeepSpeed's private names. On real engines: tests/integration/test_train.py."""

from types import SimpleNamespace

import pytest

from pipelines.runtime.compat import deepspeed as compat


@pytest.mark.parametrize("linked", [True, False])
def test_moments_are_linked_even_if_they_were_before(linked: bool) -> None:
    states: list[bool] = []
    optimizer = SimpleNamespace(_hp_optimizer_states_linked=linked)
    optimizer._lazy_init_hp_params_optimizer_state = lambda: states.append(optimizer._hp_optimizer_states_linked)
    compat.link_moments(SimpleNamespace(optimizer=optimizer))
    assert states == [False], "DeepSpeed links only what it believes unlinked"
