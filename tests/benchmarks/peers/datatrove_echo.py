"""The rows of a JSON Lines file through datatrove's inference with its dummy server. The last line of stdout is JSON.

python datatrove_echo.py corpus.jsonl OUT
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter


async def generate_one(document: Document, generate: Any) -> Any:
    """One request per document."""
    return await generate({"messages": [{"role": "user", "content": document.text}], "max_tokens": 64})


def main() -> None:
    corpus, out = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.rmtree(out, ignore_errors=True)
    begin = time.monotonic()
    runner = InferenceRunner(
        rollout_fn=generate_one,
        config=InferenceConfig(server_type="dummy", model_name_or_path="dummy", max_concurrent_generations=500,
                               metric_interval=3600, server_ready_delay_sec=0.1),
        output_writer=ParquetWriter(str(out / "data")),
    )  # fmt: skip
    pipeline = [JsonlReader(str(corpus.parent), glob_pattern=corpus.name, text_key="input", id_key="id"), runner]
    LocalPipelineExecutor(pipeline=pipeline, logging_dir=str(out / "logs"), tasks=1, workers=1).run()
    seconds = time.monotonic() - begin
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(part).num_rows for part in (out / "data").rglob("*.parquet"))
    print(json.dumps({"rows": rows, "seconds": seconds, "version": importlib.metadata.version("datatrove")}))


if __name__ == "__main__":
    main()
