import copy

import pytest
import torch
from golden import Fixture

from peekaboo.nets import anycost


@pytest.fixture(scope="module")
def predictor() -> tuple[Fixture, anycost.AttributePredictor]:
    fixture = Fixture("anycost_attributes")
    return fixture, fixture.fill(anycost.AttributePredictor)


def test_it_equals_the_official_one(predictor):
    (fixture, network), features = predictor, {}

    def keep(name: str):
        return lambda _module, _inputs, output: features.update({name: output})

    names = ("conv1", "layer1", "layer2", "layer3", "layer4")
    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    logits = network(torch.from_numpy(fixture.input("image")))
    for handle in handles:
        handle.remove()
    assert len(features) == 5
    for name, feature in features.items():
        middle = slice(feature.shape[-1] // 2 - 2, feature.shape[-1] // 2 + 2)
        fixture.check(f"feature.{name}", feature[:, :8, middle, middle], f"out.feature.{name}.crop")
    fixture.check("logits", logits)
    fixture.check("probability", anycost.probabilities(logits))
    assert list(network.attributes) == fixture.manifest["attribute_order"]


def test_generated_images_are_prepared_as_the_official_ones(predictor):
    fixture, network = predictor
    images = anycost.prepared(torch.from_numpy(fixture.input("generated")))
    assert images.shape == (1, 3, 256, 256)
    fixture.check("generated_resized", images[..., ::16, ::16], "out.generated_resized.stride")
    fixture.check("generated_logits", network(images))


def test_gradients_equal_differences(predictor):
    fixture, network = predictor
    network = copy.deepcopy(network).double()
    images = torch.from_numpy(fixture.input("generated")).double().requires_grad_()
    smiling = anycost.ATTRIBUTES.index("Smiling")
    read = lambda x: anycost.probabilities(network(anycost.prepared(x)))[0, smiling]  # noqa: E731
    (gradient,) = torch.autograd.grad(read(images), images)
    direction, step = gradient / gradient.norm(), 1e-6
    with torch.no_grad():
        slope = (read(images + step * direction) - read(images - step * direction)) / (2 * step)
    torch.testing.assert_close(slope, gradient.norm(), rtol=1e-4, atol=1e-7)
    assert gradient[images.detach().abs() > 1].count_nonzero() == 0
