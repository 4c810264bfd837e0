"""THE Arrow schemas. What stages hand to each other has one of these, stated to every reader and writer.

One accepted row of `labels/data`:

    {"id": "apples-17", "input": "Anne has 4 apples and gives Peter 2 and Thomas 1. How many ...", "gold": "4 - 2 - 1",
     "label": "4 - 2 - 1", "rationale": "Anne starts with 4 apples ...", "votes": 3, "agreement": 0.75, "soft_label": null,
     "prompt_tokens": 291, "output_tokens": 104, "finish_reason": "stop"}
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

# Reasons in the order in which they are decided: a row gets the first that applies.
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

# A corpus row that its task could read.
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
        pa.field("votes", pa.int32(), nullable=False),  # samples that voted for the label
        pa.field("agreement", pa.float32(), nullable=False),  # votes / n, unparsable samples counted in n
        pa.field("soft_label", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),  # of all samples together
        pa.field("finish_reason", pa.string(), nullable=False),
    ]
)

REJECT = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # one of REJECT_REASONS
        pa.field("detail", pa.string(), nullable=False),
        pa.field("output", pa.string(), nullable=False),  # the teacher's raw text, or the raw row where there is none
    ]
)

# labels/token_logprobs: the teacher's k likeliest tokens (teacher.token_logprobs) along the answer whose rationale was kept, T tokens.
TOKEN_LOGPROBS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),  # (T,) what was sampled
        pa.field("top_ids", pa.list_(pa.list_(pa.int32()))),  # (T, k), likeliest first
        pa.field("top_logprobs", pa.list_(pa.list_(pa.float16()))),  # (T, k) natural logarithms, before temperature
    ]
)
# How that table is written (arguments of pyarrow.parquet.write_table). Measured on 1,797 tokens of SmolLM2-135M's answers: 16.6 bytes per
# token with k = 5 and 55.8 with k = 20, against 20.0 and 68.0 with zstd alone; zstd level 9 would save another 3 to 5%.
TOKEN_LOGPROBS_PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["token_ids.list.element", "top_ids.list.element.list.element"],
    "column_encoding": {"top_logprobs.list.element.list.element": "BYTE_STREAM_SPLIT"},
}
