"""Private names of transformers 5, with the reason why no public name does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.runtime.compat import private_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def layer_classes(model: PreTrainedModel) -> frozenset[str]:
    """Class names of the layers that a model repeats. Empty if its author named none.

    Private: transformers keeps them for placing a model on several devices, under no public name.
    """
    with private_name("transformers", "PreTrainedModel._no_split_modules"):
        return frozenset(model._no_split_modules or ())


def attention_implementation(model: PreTrainedModel) -> str:
    """Name of the attention function that a model calls.

    Private: `set_attn_implementation` sets it, and nothing public returns it.
    """
    with private_name("transformers", "PreTrainedConfig._attn_implementation"):
        return str(model.config._attn_implementation)
