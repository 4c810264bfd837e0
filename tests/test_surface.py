"""Commands, options, run-file keys and JSON Schemas that users rely on. Add a new one here on purpose; a lost one is a breaking change."""

import re
from collections.abc import Iterator
from typing import get_args

import click
from click.testing import CliRunner
from pydantic import BaseModel

from cluster.cli import main
from cluster.reference import FOLDER as REFERENCE
from cluster.reference import pages
from cluster.schemas import FOLDER, models, schema_text
from pipelines.config import RunConfig

COMMANDS = {
    "quickstart": {"--output", "--recipe", "--set", "--json", "--verbose"},
    "init": {"CORPUS", "--output", "--task", "--json"},
    "plan": {"RUN", "--prompts", "--calibrate", "--deadline", "--config", "--set", "--json", "--verbose"},
    "status": {"RUN", "--address", "--follow", "--set", "--json", "--verbose"},
    "label": {"RUN", "--check", "--replace", "--set", "--json", "--verbose"},
    "train": {"RUN", "--replace", "--set", "--json", "--verbose"},
    "evaluate": {"RUN", "--baseline", "--replace", "--set", "--json", "--verbose"},
    "run": {"RUN", "--replace", "--set", "--json", "--verbose"},
    "compare": {"RUN", "--set", "--json", "--verbose"},
    "key": {"NAME", "--file", "--requests-per-minute", "--json"},
    "serve": {"STUDENT...", "--run", "--split", "--detach", "--print-config", "--set", "--json", "--verbose"},
    "up": {"--nodes", "--cpus", "--json"},
    "down": {"--json"},
    "submit": {
        "RUN", "--stage", "--address", "--no-wait", "--shared", "--installed", "--retries", "--driver-cpus", "--driver-resource", "--env",
        "--replace", "--set", "--json", "--verbose",
    },
    "logs": {"JOB", "--address", "--stage", "--set", "-f", "--json"},
    "stop": {"JOB", "--address", "--stage", "--set", "--json"},
    "k8s run": {"RUN", "--overlay", "--stage", "--no-wait", "--replace", "--set", "--context", "--json"},
    "k8s plan": {"RUN", "--overlay", "--stage", "--offline", "--set", "--context", "--json"},
    "k8s status": {"-n", "--context", "--json"},
    "k8s logs": {"JOB", "--stage", "--set", "-n", "--context", "-f", "--json"},
    "k8s stop": {"JOB", "--stage", "--set", "-n", "--context", "--json"},
    "k8s down": {"--overlay", "--claims", "--context", "--json"},
}  # fmt: skip

KEYS = """
name output task task_options
corpus.train corpus.validation corpus.test corpus.fields corpus.limit
teacher.engine teacher.model teacher.outputs teacher.replicas.min teacher.replicas.max teacher.gpus_per_replica
teacher.prompt teacher.system teacher.pipeline_parallel teacher.resources teacher.accelerator_type teacher.vllm.lora
teacher.sampling.n teacher.sampling.temperature teacher.sampling.top_p teacher.sampling.max_tokens teacher.sampling.seed
teacher.shots teacher.constrained teacher.soft_labels teacher.token_logprobs
teacher.filters.gold teacher.filters.min_agreement teacher.filters.min_rationale_words teacher.filters.max_rationale_words
teacher.filters.drop_giveaways teacher.filters.near_duplicates teacher.latency_s teacher.latency_tail
teacher.remote.url teacher.remote.key_variable teacher.remote.max_concurrent_requests teacher.remote.max_attempts teacher.remote.timeout_s
teacher.budget.tokens teacher.budget.money
teacher.price.per_million_prompt_tokens teacher.price.per_million_output_tokens teacher.price.per_gpu_hour
labelling.commit_rows labelling.commit_every_s labelling.first_rows labelling.max_reject_share labelling.max_engine_error_share
labelling.max_task_error_share labelling.reuse labelling.shards
teacher.sampling.top_k teacher.sampling.min_p teacher.sampling.repetition_penalty teacher.sampling.stop teacher.revision
teacher.remote.max_outage_s teacher.budget.gpu_hours teacher.price.per_million_cached_tokens
teacher.remote.batch teacher.remote.batch_rows teacher.remote.batch_poll_s teacher.remote.batch_price
teacher.chat_template_kwargs teacher.reasoning teacher.keep_thoughts teacher.vllm.engine_args
labelling.lease_s
teacher.vllm.dtype teacher.vllm.max_model_len teacher.vllm.max_num_seqs teacher.vllm.gpu_memory_utilization teacher.vllm.cpu_kv_cache_gib
teacher.vllm.enforce_eager
student.model student.init.kind student.init.layers student.init.vocabulary student.lora.rank student.lora.alpha student.lora.dropout
student.method student.labels student.prompt
student.rationales.per_row student.rationales.share student.rationales.max_words
student.rationale_weight student.soft_weight student.temperature student.divergence

training.workers training.gpus_per_worker training.zero_stage training.precision training.fraction training.epochs training.steps
training.tokens_per_batch training.tokens_per_micro_batch training.learning_rate training.warmup training.weight_decay
training.gradient_clipping
training.schedule training.offload training.activation_checkpointing training.compile training.trackers
training.validate_every_steps training.choose_by training.patience training.max_loss_spike training.checkpoint_every_minutes
training.keep_checkpoints
training.min_workers training.placement training.max_input_tokens training.max_target_tokens
training.checkpoint_every_steps training.max_failures training.seed
evaluation.batch_size evaluation.max_new_tokens evaluation.workers evaluation.gpus_per_worker
evaluation.samples.n evaluation.samples.temperature evaluation.samples.seed evaluation.weights
evaluation.engine evaluation.constrained
serving.engine_args
serving.host serving.port serving.replicas.min serving.replicas.max serving.gpus_per_replica serving.target_ongoing_requests
serving.max_batch_size serving.batch_wait_s serving.max_queued_requests serving.request_timeout_s serving.max_new_tokens
serving.max_replicas_per_node serving.engine serving.weights serving.constrained serving.cpu_kv_cache_gib serving.students_per_replica
serving.ingress_replicas
serving.delays.up_s serving.delays.down_s serving.delays.to_zero_s
serving.limits.inputs serving.limits.body_bytes serving.limits.input_characters
serving.keys.file serving.keys.variable serving.keys.requests_per_minute serving.keys.none
serving.keys.inputs_per_minute serving.keys.tokens_per_minute serving.tls.certificate serving.tls.key serving.allowed_hosts
serving.task_code serving.cors_origins serving.access_log serving.log_text serving.traces
compare.methods compare.fractions compare.students compare.seeds
compare.search.trials compare.search.fraction compare.search.learning_rate compare.search.weight compare.search.steps
compare.equal compare.arms compare.gold_fractions
compare.keep_students compare.price_per_worker_hour
"""


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by its name with those of its groups."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        kind = next((k for k in get_args(field.annotation) if k is not type(None)), field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys(kind, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_commands_and_options_are_the_frozen_ones() -> None:
    found = {
        name: {p.opts[0] if isinstance(p, click.Option) else str(p.metavar) for p in command.params}
        for name, command in commands(main)
    }
    assert found == COMMANDS
    assert keys(RunConfig) == set(KEYS.split())


def test_every_command_has_a_summary_and_parts_a_version() -> None:
    for name, command in [*commands(main), *main.commands.items()]:
        summary = command.get_short_help_str(limit=45)
        assert summary, name
        assert not summary.endswith("..."), f"{name}: {summary}"
        assert "Example" in (command.help or ""), name
    done = CliRunner().invoke(main, ["--version"])
    parts = r"raystill \S+, Python 3\.\d+.*\nbase +ray \S+, pyarrow \S+, .*\nlabel .*\ntrain +torch \S+, .*\nserve .*\nk8s .*\n"
    assert (done.exit_code, bool(re.fullmatch(parts, done.output))) == (0, True), done.output


def test_generated_pages_and_schemas_are_up_to_date() -> None:
    """`python -m cluster.reference` writes them."""
    found = {file.stem: file.read_text(encoding="utf-8") for file in REFERENCE.glob("*.md")}
    assert found == pages()
    found = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    assert found == {name: schema_text(model) for name, model in models().items()}
