"""The rows of a JSON Lines file through distilabel's TextGeneration with an LLM that answers immediately. The last line of stdout is JSON.

python distilabel_echo.py corpus.jsonl OUT
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from typing import Any

from distilabel.models.llms import LLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


class EchoLLM(LLM):
    """Repeats its prompt."""

    def load(self) -> None:
        super().load()

    @property
    def model_name(self) -> str:
        return "echo"

    def generate(self, inputs: list[Any], num_generations: int = 1) -> list[Any]:
        counts = {"input_tokens": [1], "output_tokens": [1]}
        return [
            {"generations": [f"The answer is {messages[-1]['content']}."], "statistics": counts} for messages in inputs
        ]


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as corpus:
        rows = [{"instruction": row["input"], "id": row["id"]} for row in map(json.loads, corpus)]
    begin = time.monotonic()
    with Pipeline(name="echo") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=1000)
        load >> TextGeneration(llm=EchoLLM(), input_batch_size=1000)
    distiset = pipeline.run(use_cache=False)
    distiset["default"]["train"].to_parquet(f"{sys.argv[2]}.parquet")
    seconds = time.monotonic() - begin
    found = len(distiset["default"]["train"])
    print(json.dumps({"rows": found, "seconds": seconds, "version": importlib.metadata.version("distilabel")}))


if __name__ == "__main__":
    main()
