"""The run file's `student`: what it starts from, what it learns, and by which method."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import Section, Share
from pipelines.methods import Method


class InitConfig(Section):
    """What the student starts from. The kind of `student.model`'s architecture decides the family."""

    kind: Literal["pretrained", "first-layers", "random"] = "pretrained"
    """pretrained: model as it is. first-layers: its first `layers`. random: its config and tokenizer, fresh weights."""
    layers: Annotated[int, Field(ge=1)] | None = None
    vocabulary: Annotated[int, Field(ge=300)] | None = None
    """random: train a tokenizer of the model's kind, with so many entries at the most, on the texts of the labels."""

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> Self:
        if (self.kind == "first-layers") != (self.layers is not None):
            raise ValueError("`layers` goes with kind: first-layers, and with no other")
        if self.vocabulary is not None and self.kind != "random":
            raise ValueError(
                f"`vocabulary` goes with kind: random: the weights of kind {self.kind} know their own tokens only"
            )
        return self


class LoraConfig(Section):
    """Low-rank adapters on every linear layer: only they are trained, and merged into the weights at the end."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """An adapter's share of a layer's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class StudentConfig(Section):
    """What is trained, and how."""

    model: str
    """Hub id or folder."""
    init: InitConfig = InitConfig()
    lora: LoraConfig | None = None
    """None: all weights are trained."""
    method: Method = "step-by-step"
    labels: Literal["gold", "teacher"] | None = None
    """Whose label is learned, for the methods with rationales; `gold` where it is not set."""
    rationale_weight: Share = 0.5
    """step-by-step: w in loss = (1 - w) x label loss + w x rationale loss."""
    soft_weight: Share = 0.5
    """soft-label and token-kd: s in loss = (1 - s) x cross entropy + s x divergence from the teacher's distribution."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """soft-label: by which both distributions over the labels are softened."""
    divergence: Literal["forward-kl", "reverse-kl", "jsd"] = "forward-kl"
    """token-kd: forward-kl is KL(teacher || student)."""

    @model_validator(mode="after")
    def _labels_where_chosen(self) -> Self:
        if self.labels is not None and self.method in _LABELS_LEARNED:
            raise ValueError(
                f"`labels` has no effect with method {self.method}, which learns {_LABELS_LEARNED[self.method]}; remove it"
            )
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.lora is not None and self.init.kind == "random":
            raise ValueError(
                "`lora` adapts weights that know something; with init.kind: random there are none, remove it"
            )
        if self.init.vocabulary is not None and self.method == "token-kd":
            raise ValueError("method token-kd compares tokens with the teacher's; remove init.vocabulary")
        return self

    @property
    def label_column(self) -> Literal["gold", "label", "either"]:
        """Whose label the student learns, as a column of the labels. either: gold where there is one, else the teacher's."""
        if self.method == "soft-label":
            return "either"
        if self.method in ("task-distillation", "token-kd") or self.labels == "teacher":
            return "label"
        return "gold"

    def with_method(self, method: Method, model: str) -> StudentConfig:
        """This student by another method and from another model; `labels` goes where the method has none to choose."""
        changed = self.model_dump() | {"method": method, "model": model}
        if method in _LABELS_LEARNED:
            changed["labels"] = None
        return StudentConfig.model_validate(changed)

    @property
    def weight_key(self) -> Literal["rationale_weight", "soft_weight"] | None:
        """The key of the method's loss weight; None where it has none."""
        if self.method == "step-by-step":
            return "rationale_weight"
        return "soft_weight" if self.method in _METHODS_WITH["soft_weight"] else None

    def effective(self) -> dict[str, Any]:
        """The settings that the method reads, but for the model, which may lie elsewhere by now."""
        settings = self.model_dump(mode="json", exclude={"model"}, exclude_none=True) | {"labels": self.label_column}
        return {key: value for key, value in settings.items() if self.method in _METHODS_WITH.get(key, {self.method})}


_METHODS_WITH = {
    "rationale_weight": {"step-by-step"},
    "soft_weight": {"soft-label", "token-kd"},
    "temperature": {"soft-label"},
    "divergence": {"token-kd"},
}
"""Keys of `student` that only some methods read."""
_LABELS_LEARNED = {
    "finetune": "gold labels",
    "task-distillation": "the teacher's labels",
    "soft-label": "the teacher's distribution, and the gold label where there is one",
    "token-kd": "the teacher's text",
}
