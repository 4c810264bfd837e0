"""The run file's `student`: the model it starts from, the method, and what the method reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import Section, Share
from pipelines.methods import METHOD_KEYS, METHODS, LabelColumn, MethodName, WeightKey

_ADDED = ("rationales", "prompt")


class InitConfig(Section):
    """What the student starts from. The architecture of `student.model` decides its family."""

    kind: Literal["pretrained", "first-layers", "random"] = "pretrained"
    """pretrained: the model. first-layers: its first `layers`. random: its config and tokenizer with random weights."""
    layers: Annotated[int, Field(ge=1)] | None = None
    """first-layers: how many."""
    vocabulary: Annotated[int, Field(ge=300)] | None = None
    """random: train a tokenizer of the model's kind on the texts of the labels, with at most this many entries."""

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> Self:
        if (self.kind == "first-layers") != (self.layers is not None):
            raise ValueError("`layers` is for kind: first-layers, and only for it")
        if self.vocabulary is not None and self.kind != "random":
            rule = f"`vocabulary` is for kind: random; weights of kind {self.kind} know only their own tokens"
            raise ValueError(f"{rule}; remove it")
        return self


class LoraConfig(Section):
    """Low-rank adapters on every linear layer. Only they are trained; they are merged into the weights at the end."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Columns of an adapter's two matrices."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """An adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class RationalesConfig(Section):
    """Which rationales are learned, for methods whose students write them."""

    per_row: Annotated[int, Field(ge=1)] = 1
    """How many of a row's rationales (labels/rationales, the shortest first) are learned: one in each epoch, in turn."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the training rows whose rationale is learned, by hash of the id. The other rows teach their label alone."""
    max_words: Annotated[int, Field(ge=1)] | None = None
    """Longer rationales are not learned."""


class StudentConfig(Section):
    """What is trained, and how."""

    model: str
    """Hub id or folder; `embedded`: SmolLM2-135M-Instruct."""
    init: InitConfig = InitConfig()
    lora: LoraConfig | None = None
    """None: all weights are trained."""
    method: MethodName = "step-by-step"
    """What the student reads and writes: the table of docs/train.md."""
    prompt: Literal["plain", "chat"] = "plain"
    """chat: an input is the user's turn in the tokenizer's chat template, for instruct models."""
    labels: Literal["gold", "teacher", "gold-else-teacher"] | None = None
    """Whose label is learned. gold: a row without one is left out; if the key is not set, gold is learned and such rows are refused.
    gold-else-teacher: gold if the row has one. A method that learns one of them alone takes only that one, and task-distillation
    gold-else-teacher too."""
    rationale_weight: Share = 0.5
    """step-by-step and label-then-rationale: w in loss = (1 - w) x label loss + w x rationale loss."""
    rationales: RationalesConfig = RationalesConfig()
    soft_weight: Share = 0.5
    """soft-label and token-kd: s in loss = (1 - s) x cross entropy + s x divergence from the teacher's distribution."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """soft-label: softens both distributions over the labels."""
    divergence: Literal["forward-kl", "reverse-kl", "jsd"] = "forward-kl"
    """token-kd: forward-kl is KL(teacher || student)."""

    @model_validator(mode="after")
    def _labels_are_read(self) -> Self:
        method = METHODS[self.method]
        fills_gaps = self.labels == "gold-else-teacher" and self.method == "task-distillation"
        fitting = {"gold": "gold", "label": "teacher"}.get(method.label_column or "")
        if self.labels not in (None, fitting) and method.label_column is not None and not fills_gaps:
            rule = f"`labels` {self.labels} has no effect with method {self.method}, which learns {method.learns}"
            raise ValueError(f"{rule}; remove it")
        return self

    @model_validator(mode="after")
    def _label_is_learned(self) -> Self:
        if METHODS[self.method].continues and self.rationale_weight == 1.0:
            rule = f"`rationale_weight` 1.0: method {self.method} writes the rationale after a label that it must learn"
            raise ValueError(f"{rule}; set it below 1")
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.lora is not None and self.init.kind == "random":
            raise ValueError("`lora` adapts pretrained weights; init.kind is random; remove one of them")
        if self.init.vocabulary is not None and METHODS[self.method].learns_teacher_tokens:
            raise ValueError(f"method {self.method} compares tokens with the teacher's; remove init.vocabulary")
        if self.init.vocabulary is not None and self.prompt == "chat":
            raise ValueError("a tokenizer of `init.vocabulary` lacks the tokens of a chat template; set prompt: plain")
        return self

    @property
    def label_column(self) -> LabelColumn:
        """Whose label the student learns, as a column of the labels. either: gold if the row has one, else the teacher's."""
        if self.labels == "gold-else-teacher":
            return "either"
        return METHODS[self.method].label_column or ("label" if self.labels == "teacher" else "gold")

    @property
    def leaves_out_rows(self) -> bool:
        """True if rows without a gold label are left out of the training."""
        return self.labels == "gold"

    def with_method(self, method: MethodName, model: str) -> StudentConfig:
        """This student by another method and from another model, without `labels` if the method leaves no choice.

        No rows are left out: the methods of a grid learn from the same ones.
        """
        changed = self.model_dump() | {"method": method, "model": model}
        if METHODS[method].label_column is not None or self.leaves_out_rows:
            changed["labels"] = None
        return StudentConfig.model_validate(changed)

    @property
    def weight_key(self) -> WeightKey | None:
        """The key of the method's loss weight; None if it has none."""
        return METHODS[self.method].weight_key

    def effective(self) -> dict[str, Any]:
        """The settings that the method reads. The model is left out: its folder may have moved."""
        settings = self.model_dump(mode="json", exclude={"model"}, exclude_none=True) | {"labels": self.label_column}
        unused = METHOD_KEYS - METHODS[self.method].student_keys
        # Keys that 0.1 did not have decide nothing unless they are set.
        unused |= {key for key in _ADDED if getattr(self, key) == StudentConfig.model_fields[key].default}
        return {key: value for key, value in settings.items() if key not in unused}
