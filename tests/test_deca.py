import numpy as np
import pytest
import torch
from golden import Fixture
from scipy.spatial.transform import Rotation

from peekaboo.nets import deca


def test_the_encoder_equals_the_official_one():
    fixture, features = Fixture("deca_e_flame"), {}
    network = fixture.fill(deca.CoarseEncoder)
    assert fixture.manifest["networks"][0]["split"] == deca.PARTS

    def keep(name: str):
        return lambda _module, _inputs, output: features.update({name: output})

    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        network.encoder.get_submodule(name).register_forward_hook(keep(name))
    network.encoder.register_forward_hook(keep("pooled"))
    network.layers.register_forward_hook(keep("parameters"))
    found = network(torch.from_numpy(fixture.input("image")))
    for name in ("pooled", "parameters"):
        fixture.check(name, features.pop(name))
    assert len(features) == 5
    for name, feature in features.items():
        first = feature.shape[-1] // 2 - 2
        middle = slice(first, first + 4)
        fixture.check(f"feature.{name}", feature[:, :8, middle, middle], f"out.feature.{name}.crop")
    for name in ("pose", "cam", "exp", "light"):
        fixture.check(f"code.{name}", found[name])
    assert [found[name].shape for name in ("shape", "tex")] == [(1, 100), (1, 50)]
    fixture.check("rotation", deca.rotation(found["pose"][:, :3]))


def test_rotations_equal_the_official_and_the_exact_ones():
    fixture = Fixture("deca_e_flame")
    found = deca.rotation(torch.from_numpy(fixture.input("axis_angle")))
    fixture.check("axis_angle_rotation", found)
    fixture.check("axis_angle_rotation_exact", found)


def test_rotations_are_exact_and_smooth_at_every_angle():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(9, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    vectors = axes * np.array([0, 1e-9, 1e-4, 0.1, 1, 2, np.pi - 1e-6, np.pi, 6])[:, None]
    found = deca.rotation(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(found, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)
    assert torch.autograd.gradcheck(deca.rotation, torch.from_numpy(vectors).requires_grad_())


def test_another_size_is_named():
    with torch.device("meta"), pytest.raises(ValueError, match="expected faces of 224 x 224, found 256 x 256"):
        deca.CoarseEncoder()(torch.zeros(1, 3, 256, 256))
