"""Output folders with labels, a tiny model and its tokens, as tests of engines and of the train stage need them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from pipelines.train.data.tokenise import tokenise
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

FAMILIES = ("decoder-only", "encoder-decoder")


def make_outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each family an output folder with labels, a tiny model in `model`, and tokens in `tokens`."""
    outputs = {}
    for family in FAMILIES:
        output = tmp_path_factory.mktemp(family)
        write_labels(output, label_rows(60))
        make_model(family, output / "model")
        tokens_of(output)
        outputs[family] = output
    return outputs


def run_of(output: Path, **training: Any) -> RunConfig:
    return make_run(output, str(output / "model"), training=training)


def tokens_of(output: Path) -> Tokens:
    """The folder's tokens, made if they are missing."""
    from pipelines.train.checks import token_settings

    store = Store(str(output / "tokens"))
    tokenise(Store(str(output / "labels")), token_settings(run_of(output)), store)
    return Tokens(store, output)


def engine_without_zero(seed: int = 0, steps: int = 2) -> Any:
    """The parts of an engine without ZeRO that checkpoints read: a model of two layers, and its optimizer after some steps."""
    import torch

    from pipelines.train.engine.deepspeed_engine import parameter_groups

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for _ in range(steps):
        model(torch.ones(4, 3)).pow(2).sum().backward()
        optimizer.step()
    module = SimpleNamespace(model=model)
    return SimpleNamespace(module=module, optimizer=optimizer, device="cpu", zero_optimization_stage=lambda: 0)
