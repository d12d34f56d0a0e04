import pytest
import torch
from golden import Fixture

from peekaboo.latent.tuning import tuning_loss
from peekaboo.nets import lpips


@pytest.fixture(scope="module")
def filled() -> tuple[Fixture, lpips.Lpips]:
    """The network with the fixture's weights; every official key is there with its shape, in order, and no other."""
    fixture, network = Fixture("lpips_alex"), lpips.Lpips().eval().requires_grad_(False)
    found = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    assert found == [(entry["key"], entry["shape"]) for entry in fixture.manifest["networks"][0]["state_dict"]]
    state = fixture.state_dict()
    for key in ("scaling_layer.shift", "scaling_layer.scale"):
        assert torch.equal(network.get_buffer(key), state[key])
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("lins.") for key in missing)
    return fixture, network


@pytest.fixture
def images(filled) -> tuple[torch.Tensor, torch.Tensor]:
    fixture, _ = filled
    first, delta = (torch.from_numpy(fixture.input(name)) for name in ("image0", "image1_delta"))
    return first, (first + delta).clamp(-1, 1)


def test_it_equals_the_official_one(filled, images):
    fixture, network = filled
    for i, feature in enumerate(network.net(network.scaling_layer(images[0])), 1):
        first = max(feature.shape[-1] // 2 - 2, 0)
        middle = slice(first, first + 4)
        fixture.check(f"feature.relu{i}", feature[:, :16, middle, middle], f"out.feature.relu{i}.crop")
    fixture.check("distance", network.distance(*images))
    fixture.check("distance_per_layer", network(*images))
    fixture.check("distance_normalize", network.distance(*(2 * ((x + 1) / 2) - 1 for x in images)))
    fixture.check("distance_self", network.distance(images[0], images[0]))


def test_its_gradient_equals_the_official_one(filled, images):
    fixture, network = filled
    first = images[0].requires_grad_()
    (gradient,) = torch.autograd.grad(network.distance(first, images[1]).sum(), first)
    fixture.check("grad_image0", gradient[..., ::4, ::4], "out.grad_image0.stride")


@pytest.mark.parametrize(("l2", "perceptual", "name"), [(1, 1, "1_1"), (10, 1, "10_1"), (1, 0.8, "1_0.8")])
def test_the_tuning_loss_equals_the_official_one(filled, images, l2, perceptual, name):
    fixture, network = filled
    loss, distance, squared = tuning_loss(*images, network, perceptual, l2)
    fixture.check("pti_lpips", distance.view(1))
    fixture.check("pti_l2", squared.view(1))
    fixture.check(f"pti_loss_{name}", loss.view(1))


def test_features_of_zero_have_a_gradient():
    torch.manual_seed(0)
    features = torch.randn(1, 8, 2, 2)
    features[..., 0, 0] = -1.0
    features.requires_grad_()
    unit = lpips.unit(features.relu())
    assert unit[..., 0, 0].count_nonzero() == 0
    torch.testing.assert_close(unit[..., 1, 1].norm(), torch.tensor(1.0))
    (gradient,) = torch.autograd.grad((unit - 1).square().sum(), features)
    assert gradient.isfinite().all()
    assert gradient[..., 0, 0].count_nonzero() == 0
