"""A teacher whose chat template opens a thought, on a real vLLM engine, from the corpus to the labels."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.commands import raystill
from tests.support.corpora import write_jsonl
from tests.support.run_files import label_run, word_rows, write_run_file

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(390)]

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SHOTS = [
    {"question": f"Anne has {a} pears and gets {b}. How many has she?",
     "answer": f"It may be that the answer is (99). No.\n</think>\nAnne has {a}. {a} + {b} = {a + b}. The answer is ({a} + {b})."}
    for a, b in ((4, 2), (7, 5), (3, 9), (8, 6))
]  # fmt: skip


def thinking_model(folder: Path, source: Path) -> str:
    """The model with a chat template that begins every answer within a thought. Returns its folder."""
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return str(folder)


def test_no_label_of_a_thinking_teacher_comes_from_its_thoughts(tmp_path: Path, teacher_folder: Path) -> None:
    teacher = {
        "engine": "vllm", "model": thinking_model(tmp_path / "model", teacher_folder), "prompt": "chat", "system": "Think first.",
        "shots": write_jsonl(tmp_path / "shots.jsonl", SHOTS), "keep_thoughts": True, "sampling": {"max_tokens": 96},
        "vllm": {"max_model_len": 1024, "max_num_seqs": 16},
    }  # fmt: skip
    run = label_run(tmp_path, word_rows(24), teacher, labelling={"max_reject_share": 1.0})
    file = write_run_file(tmp_path, run)
    result = raystill("label", str(file), "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    data = pq.read_table(tmp_path / "out/labels/data").to_pylist()
    rejects = tmp_path / "out/labels/rejects"
    rejected = pq.read_table(rejects).to_pylist() if rejects.exists() else []
    assert len(data) + len(rejected) == 24
    assert len(data) > 4, [row["output"] for row in rejected[:3]]
    assert all(row["thoughts"] for row in data)
    assert not [row for row in data if row["label"] == "99"]
    assert not [row for row in data if "</think>" in row["rationale"] or "(99)" in row["rationale"]]
    assert {row["reason"] for row in rejected} <= {"truncated", "unparsable"}
    (part, *_) = (tmp_path / "out/labels/data").glob("*.parquet")
    assert pa.types.is_string(pq.read_schema(part).field("thoughts").type)
