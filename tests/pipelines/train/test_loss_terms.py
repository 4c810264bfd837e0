"""What a method's loss is made of."""

from __future__ import annotations

import doctest

import pytest

from pipelines.config import StudentConfig
from pipelines.methods import METHODS
from pipelines.train import loss_terms
from pipelines.train.data import batch_plan
from pipelines.train.loss_terms import TERMS, is_spike, term_weights


@pytest.mark.parametrize("method", METHODS)
def test_weights_sum_to_1(method):
    student = StudentConfig(model="m", method=method, rationale_weight=0.3, soft_weight=0.2)
    weights = term_weights(student)
    assert set(weights) <= set(TERMS)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert all(weight > 0 for weight in weights.values())


def test_a_term_that_weighs_nothing_is_not_trained():
    assert term_weights(StudentConfig(model="m", method="step-by-step", rationale_weight=0.0)) == {"label": 1.0}
    assert term_weights(StudentConfig(model="m", method="token-kd", soft_weight=1.0)) == {"divergence": 1.0}


def test_a_spike_is_one_against_the_last_50():
    assert not is_spike([100.0] * 60 + [1.0] * 24, 50.0, 3.0), "the median of the last 50 is still 100"
    assert is_spike([100.0] * 60 + [1.0] * 26, 3.1, 3.0)


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(loss_terms).failed == 0
    assert doctest.testmod(batch_plan).failed == 0
