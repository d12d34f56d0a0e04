import torch
from torch.utils.benchmark import Timer

from peekaboo import gpu


def test_a_cpu_does_not_compute_in_a_type_that_it_has_to_emulate():
    def seconds(dtype: torch.dtype) -> float:
        timer = Timer("factor @ factor", globals={"factor": torch.ones(256, 256, dtype=dtype)}, num_threads=1)
        return min(timer.timeit(3).mean for _ in range(5))

    # Emulated products take a hundred times as long.
    assert seconds(gpu.precision(torch.device("cpu"))) < 5 * seconds(torch.float32)


def test_a_card_trains_in_full_precision_and_has_bfloat16():
    assert gpu.precision(torch.device("cuda")) is torch.float32
    assert gpu.halves(torch.device("cuda"))
