import copy

import numpy as np
import pytest
import torch

from peekaboo.latent.tuning import Tuner, locality_loss, tuned_parameters, tuning_loss
from peekaboo.nets.residual import PerceptualFeatures
from peekaboo.nets.stylegan3 import Generator


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    generator = Generator(8, 8, 16, channel_base=128, channel_max=16, num_layers=4).eval().requires_grad_(False)
    perceptual = PerceptualFeatures([8, 16], 4, size=16).eval().requires_grad_(False)
    return generator, perceptual


def problem(generator):
    random = torch.Generator().manual_seed(1)
    pivots = generator.mapping(torch.randn(6, 8, generator=random))
    wanted = (torch.rand(6, 3, 2, 2, generator=random) * 2 - 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    still = torch.eye(3)
    return pivots, wanted, lambda n: (pivots[torch.from_numpy(n)], still, wanted[torch.from_numpy(n)])


def run(tuner, read, epochs, start=0):
    for epoch in range(start, epochs):
        tuner.epoch(read, np.random.default_rng(epoch).permutation(6), 3, (1.0, 1.0))


def test_tuning_lowers_the_perceptual_loss_and_leaves_the_input_layer_alone(networks):
    generator, perceptual = networks
    pivots, wanted, read = problem(generator)
    tuner = Tuner(copy.deepcopy(generator), perceptual, 1e-2, torch.float32)
    run(tuner, read, 20)
    before = tuning_loss(generator.synthesis(pivots), wanted, perceptual, 1.0, 1.0)
    after = tuning_loss(tuner.generator.synthesis(pivots), wanted, perceptual, 1.0, 1.0)
    assert all(a < 0.9 * b for a, b in zip(after, before, strict=True))
    for name, parameter in tuner.generator.synthesis.named_parameters():
        changed = not torch.equal(parameter, generator.synthesis.get_parameter(name))
        assert changed != name.startswith("input.")


def test_tuned_parameters_are_all_but_the_first_three(networks):
    names = [name for name, _ in networks[0].synthesis.named_parameters()]
    assert list(tuned_parameters(networks[0].synthesis)) == names[3:]


def test_tuning_resumes_where_it_was_left(networks, tmp_path):
    generator, perceptual = networks
    _, _, read = problem(generator)
    whole = Tuner(copy.deepcopy(generator), perceptual, 3e-3, torch.float32)
    run(whole, read, 4)
    first = Tuner(copy.deepcopy(generator), perceptual, 3e-3, torch.float32)
    run(first, read, 2)
    torch.save(first.state_dict(), tmp_path / "checkpoint")
    second = Tuner(copy.deepcopy(generator), perceptual, 3e-3, torch.float32)
    second.load_state_dict(torch.load(tmp_path / "checkpoint", weights_only=True))
    run(second, read, 4, start=2)
    assert second.curve == whole.curve
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, second.parameters[name])


def test_locality_loss_is_zero_until_the_generator_changes(networks):
    generator, perceptual = networks
    pivots, _, _ = problem(generator)
    random = generator.mapping(torch.randn(6, 8, generator=torch.Generator().manual_seed(2)))
    other = copy.deepcopy(generator)
    assert locality_loss(other.synthesis, generator.synthesis, pivots, random, perceptual) == 0
    with torch.no_grad():
        other.synthesis.L1_36_16.weight.mul_(torch.linspace(0.5, 1.5, 16)[:, None, None, None])
        other.synthesis.L1_36_16.bias.add_(0.5)
    assert locality_loss(other.synthesis, generator.synthesis, pivots, random, perceptual) > 0
