import torch
from torch.utils.benchmark import Timer

from peekaboo import gpu


def test_a_cpu_does_not_compute_in_a_type_that_it_has_to_emulate():
    def seconds(dtype: torch.dtype) -> float:
        timer = Timer("factor @ factor", globals={"factor": torch.ones(256, 256, dtype=dtype)}, num_threads=1)
        return min(timer.timeit(3).mean for _ in range(5))

    # Emulated products take a hundred times as long.
    assert seconds(gpu.precision(torch.device("cpu"))) < 5 * seconds(torch.float32)
