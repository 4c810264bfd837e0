"""Decoding of students, for evaluation and serving, and encoding of prompts and targets, also for training."""

from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.label_scores import LabelSet
from pipelines.students.decoding.requests import Decoded, GenerationOutput, GenerationRequest, Sampling
from pipelines.students.decoding.tokens import Family, encode_prompt, encode_target, tokens_within, unwritable
from pipelines.students.decoding.transformers_student import Student, check_model, model_family

__all__ = [
    "Decoded",
    "Family",
    "GenerationOutput",
    "GenerationRequest",
    "LabelSet",
    "Sampling",
    "Student",
    "check_model",
    "check_student_files",
    "encode_prompt",
    "encode_target",
    "model_family",
    "tokens_within",
    "unwritable",
]
