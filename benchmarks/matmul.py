"""The highest rate of matrix products that PyTorch reaches here; MFU is reported against it. Prints JSON."""

from __future__ import annotations

import json
import sys
import time

import torch

# Sizes of a layer's products at 16k tokens, and a square one, which cuBLAS likes best.
SHAPES = {"cuda": ((8192, 8192, 8192), (16384, 3584, 18944)), "cpu": ((512, 512, 512), (512, 128, 1024))}
REPEATS = 50


def main(device: str) -> None:
    """Measure each shape; the peak is the best of them."""
    rates = {f"{m}x{k}x{n}": measure(device, m, k, n) for m, k, n in SHAPES[device]}
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result = {"device": name, "flops_per_second": rates, "peak": max(rates.values())}
    sys.stdout.write(json.dumps(result) + "\n")


def measure(device: str, m: int, k: int, n: int) -> float:
    """FLOP a second of [m, k] x [k, n] in bf16, on random data: zeros draw less power and run faster."""
    a, b = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
    for _ in range(3):
        _ = a @ b
    wait(device)
    started = time.perf_counter()
    for _ in range(REPEATS):
        _ = a @ b
    wait(device)
    return 2 * m * k * n * REPEATS / (time.perf_counter() - started)


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1])
