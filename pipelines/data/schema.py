"""The Arrow schemas of the rows that stages hand to each other. Every reader and writer states one of them.

One accepted row of `labels/data`:

    {"id": "apples-17", "input": "Anne has 4 apples and gives Peter 2 and Thomas 1. How many ...", "gold": "4 - 2 - 1",
     "label": "4 - 2 - 1", "rationale": "Anne starts with 4 apples ...", "votes": 3, "agreement": 0.75, "soft_label": null,
     "prompt_tokens": 291, "output_tokens": 104, "finish_reason": "stop"}
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

# In the order of the checks: a row gets the first reason that applies.
REJECT_REASONS = (
    "bad_input",
    "duplicate",
    "near_duplicate",
    "too_long",
    "engine_error",
    "truncated",
    "unparsable",
    "tie",
    "low_agreement",
    "disagrees_with_gold",
    "rationale_length",
    "gives_label_away",
)

# A corpus row that its task can read.
EXAMPLE = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),  # train | heldout
        pa.field("id", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),  # what the student reads, without prefix
        pa.field("gold", pa.string()),
        pa.field("choices", pa.list_(pa.string()), nullable=False),  # multiple choice: the texts of (a), (b), ...
    ]
)

LABEL = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("label", pa.string(), nullable=False),  # the teacher's
        pa.field("rationale", pa.string(), nullable=False),
        pa.field("votes", pa.int32(), nullable=False),  # samples with this label
        pa.field("agreement", pa.float32(), nullable=False),  # votes / n; n includes unparsable samples
        pa.field("soft_label", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),  # of all samples
        pa.field("finish_reason", pa.string(), nullable=False),
    ]
)

REJECT = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # one of REJECT_REASONS
        pa.field("detail", pa.string(), nullable=False),
        pa.field("output", pa.string(), nullable=False),  # the teacher's raw text; without one, the raw row
    ]
)

# labels/rationales: the rationales of the rows that have several whose samples voted for the label. Old labels lack the folder.
RATIONALE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("rationale", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),  # 0 is the one in `labels/data`; then the shorter ones first
    ],
    metadata={"version": "1"},
)

SAMPLE = pa.struct(
    [
        pa.field("text", pa.string()),  # with the thoughts that it has
        pa.field("tokens", pa.int32()),
        pa.field("finish_reason", pa.string()),
        pa.field("thoughts", pa.string()),  # those that a server has returned apart from the text
        pa.field("opened", pa.bool_()),  # the prompt ends within a thought
        pa.field("label_probabilities", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))),
    ]
)
# labels/texts: what the teacher wrote. One row per prompt; a row of the corpus has a second one if it was rationalised.
TEXT = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),  # hash of prompt, teacher and sampling (label/stored/keys.py)
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("dtype", pa.string()),  # that vLLM computed in
        pa.field("samples", pa.list_(SAMPLE), nullable=False),
    ],
    metadata={"version": "1"},
)
# Arguments of pyarrow.parquet.write_table. Row groups are what a lookup reads; checksums show a damaged page when it is read.
TEXT_PARQUET: Final = {
    "compression": "zstd",
    "use_dictionary": ["dtype", "samples.list.element.finish_reason"],
    "row_group_size": 4096,
    "write_page_checksum": True,
}

# labels/token_logprobs: the k likeliest tokens (teacher.token_logprobs) at each of the T positions of the answer whose rationale was kept.
TOKEN_LOGPROBS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),  # (T,) what was sampled
        pa.field("top_ids", pa.list_(pa.list_(pa.int32()))),  # (T, k), likeliest first
        pa.field("top_logprobs", pa.list_(pa.list_(pa.float16()))),  # (T, k) natural logarithms, before temperature
    ]
)
# Arguments of pyarrow.parquet.write_table for this table. Bytes per token on 1,797 tokens of SmolLM2-135M: 16.6 with k = 5 and 55.8 with
# k = 20. With zstd alone they are 20.0 and 68.0; zstd level 9 saves another 3 to 5%.
TOKEN_LOGPROBS_PARQUET: Final = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["token_ids.list.element", "top_ids.list.element.list.element"],
    "column_encoding": {"top_logprobs.list.element.list.element": "BYTE_STREAM_SPLIT"},
}
