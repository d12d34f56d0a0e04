import time

import torch

from peekaboo import gpu


def seconds(dtype: torch.dtype) -> float:
    """Of a product, the fastest of some."""
    factors = torch.ones(2, 256, 256, dtype=dtype)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        factors[0] @ factors[1]
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_a_cpu_does_not_compute_in_a_type_that_it_has_to_emulate():
    # Emulated products take a hundred times as long.
    assert seconds(gpu.precision(torch.device("cpu"))) < 5 * seconds(torch.float32)


def test_a_card_trains_in_full_precision_and_has_bfloat16():
    assert gpu.precision(torch.device("cuda")) is torch.float32
    assert gpu.halves(torch.device("cuda"))
