"""Terms of the losses. Weights of every method: tests/pipelines/test_methods.py."""

import doctest

from pipelines.train import loss_terms
from pipelines.train.data import lengths
from pipelines.train.engine import deepspeed_engine
from pipelines.train.loss_terms import is_spike


def test_a_spike_compares_with_the_last_50_losses() -> None:
    assert not is_spike([100.0] * 60 + [1.0] * 24, 50.0, 3.0), "the median of the last 50 is still 100"
    assert is_spike([100.0] * 60 + [1.0] * 26, 3.1, 3.0)


def test_docstring_examples_are_true() -> None:
    for module in (loss_terms, lengths, deepspeed_engine):
        results = doctest.testmod(module)
        assert (results.failed, results.attempted > 0) == (0, True)
