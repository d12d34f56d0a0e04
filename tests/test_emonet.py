import pytest
import torch
from golden import Fixture
from torch import nn

from peekaboo.nets.emonet import EmoNet


@pytest.mark.parametrize("name", ["emonet_8", "emonet_5"])
def test_it_equals_the_official_one(name):
    fixture, features = Fixture(name), {}
    network = fixture.fill(EmoNet, **fixture.constructor)

    def keep(name: str):
        return lambda _module, _inputs, output: features.update({name: output})

    watched = [key.removeprefix("feature.") for key in fixture.manifest["outputs"] if key.startswith("feature.")]
    for module in watched:
        network.get_submodule(module).register_forward_hook(keep(module))
    found = network(torch.from_numpy(fixture.input("image")))
    assert sorted(features) == sorted(watched)
    for module, feature in features.items():
        side = feature.shape[-1]
        middle = slice(max(side // 2 - 2, 0), side // 2 + 2)
        fixture.check(f"feature.{module}", feature[:, :8, middle, middle], f"out.feature.{module}.crop")
    assert found["heatmap"].shape == (1, 68, 64, 64)
    fixture.check("heatmap", found["heatmap"][:, ::4, ::8, ::8], "out.heatmap.stride")
    fixture.check("heatmap", found["heatmap"][:, :6, 24:40, 24:40], "out.heatmap.crop")
    for key in ("expression", "valence", "arousal"):
        fixture.check(key, found[key])
    assert len(network.expressions) == found["expression"].shape[1]


def test_its_norms_are_batch_norms_and_those_of_others_stay_what_they_are():
    with torch.device("meta"):
        norms = {type(module) for module in EmoNet().modules() if "Norm" in type(module).__name__}
    assert norms == {nn.BatchNorm1d, nn.BatchNorm2d}
    assert nn.InstanceNorm2d.__name__ == "InstanceNorm2d"
    assert nn.InstanceNorm2d(3).running_mean is None


def test_samples_of_a_batch_do_not_touch_each_other():
    torch.manual_seed(0)
    network = EmoNet(5).eval().requires_grad_(False)
    faces = torch.rand(2, 3, 256, 256)
    together = network(faces)
    assert [list(value.shape) for value in together.values()] == [[2, 68, 64, 64], [2, 5], [2], [2]]
    for key, value in network(faces[1:]).items():
        torch.testing.assert_close(value, together[key][1:], rtol=1e-4, atol=1e-5)


def test_wrong_sizes_and_settings_are_named():
    with torch.device("meta"):
        with pytest.raises(ValueError, match="n_expression: expected 5 or 8, found 7"):
            EmoNet(7)
        with pytest.raises(ValueError, match="expected faces of 256 x 256, found 224 x 256"):
            EmoNet()(torch.zeros(1, 3, 224, 256))
