"""Student -> text, the same for evaluation and serving. Also how prompts and targets become tokens, in training too."""

from pipelines.decode.closed import LabelSet
from pipelines.decode.files import check_student_files
from pipelines.decode.orders import Decoded, Order, Sampling, Written
from pipelines.decode.student import Student, check_model, model_family
from pipelines.decode.tokens import Family, encode_prompt, encode_target, tokens_within

__all__ = [
    "Decoded",
    "Family",
    "LabelSet",
    "Order",
    "Sampling",
    "Student",
    "Written",
    "check_model",
    "check_student_files",
    "encode_prompt",
    "encode_target",
    "model_family",
    "tokens_within",
]
