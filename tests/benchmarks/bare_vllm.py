"""Reference for labelling: the prompts of a run file through `vllm.LLM.generate`. Prints JSON.

python -m tests.benchmarks.bare_vllm run.yaml
"""

import argparse
import json
import time

from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.data.shots import read_shots
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.teachers.vllm import engine_arguments, sampling_parameters
from pipelines.tasks import load_task, task_spec


def prompts(run: RunConfig) -> list[str]:
    """The text of every prompt, in corpus order."""
    task = load_task(task_spec(run.task, run.task_options))
    maker = PromptMaker(task, run.teacher, read_shots(run.teacher, task))
    splits = corpus_splits(corpus_files(run.corpus.train, "corpus.train"), "train", limit=run.corpus.limit)
    rows = (row for split in splits for row in read_split(split, task, run.corpus.fields))
    return [maker.render(row.example).text for row in rows if row.example is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    from vllm import LLM

    run = load_run(options.run_file, options.overrides)
    task = load_task(task_spec(run.task, run.task_options))
    texts = prompts(run)
    begin = time.monotonic()
    llm = LLM(**engine_arguments(run.teacher))
    started = time.monotonic()
    outputs = llm.generate(texts, sampling_parameters(run.teacher, task), use_tqdm=False)
    seconds = time.monotonic() - started
    tokens = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    print(json.dumps({
        "rows": len(texts),
        "seconds": seconds,
        "engine_start_s": started - begin,
        "rows_per_s": len(texts) / seconds,
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / seconds,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
