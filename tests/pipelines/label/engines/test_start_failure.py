"""The cause of a failed start, from errors and from what vLLM's processes print."""

import os
import tempfile

import pytest

from pipelines.label.engines.start_failure import StartLog, printed_cause, start_failure

POINTER = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
PRINTED = """\
INFO 11-30 21:00:00 [core.py:10] Initializing
(EngineCore pid=12) ERROR 11-30 21:00:01 [core.py:945] EngineCore failed to start.
(EngineCore pid=12) ERROR 11-30 21:00:01 [core.py:945] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-30 21:00:01 [core.py:945] safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge
\x1b[0;36m(EngineCore_DP0 pid=12)\x1b[0;0m Process EngineCore:
\x1b[0;36m(EngineCore_DP0 pid=12)\x1b[0;0m Traceback (most recent call last):
\x1b[0;36m(EngineCore_DP0 pid=12)\x1b[0;0m safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_cause_is_read_from_the_engines_output() -> None:
    cause = "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"
    assert printed_cause(PRINTED) == cause
    found = start_failure(POINTER, PRINTED)
    assert "HeaderTooLarge. The weights of teacher.model are damaged" in found
    assert "Engine core initialization failed" in start_failure(POINTER, "nothing to see")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("User-specified max_model_len (100000) is greater than the derived max_model_len", "Lower teacher.vllm.max_model_len"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "gpu_memory_utilization"),
        ("EngineArgs.__init__() got an unexpected keyword argument 'nope'", "Correct teacher.vllm"),
        ("Model architectures ['Nope'] are not supported for now", "a model that vLLM supports"),
        ("nowhere/at-all is not a local folder and is not a valid model identifier", "Check teacher.model"),
        ("strange", "Correct teacher.model or teacher.vllm"),
    ],
)  # fmt: skip
def test_each_cause_has_a_remedy(text: str, remedy: str) -> None:
    try:
        raise RuntimeError("wrapped") from ValueError(text)
    except RuntimeError as error:
        found = start_failure(error)
    assert found.startswith(f"ValueError: {text.rstrip('.')}. ")
    assert remedy in found


def test_only_what_was_printed_since_is_read() -> None:
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            os.write(2, b"before\n")
            log = StartLog()
            os.write(2, b"after\n")
            written = log.written()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    assert "after" in written
    assert "before" not in written
