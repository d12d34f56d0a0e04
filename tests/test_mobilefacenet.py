import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from people import seen

from peekaboo import gpu
from peekaboo.judges import crops
from peekaboo.judges.judge import aligned
from peekaboo.nets.mobilefacenet import MobileFaceNet

MODELS = Path(__file__).parents[2] / "shared" / "models"


@pytest.fixture(scope="module")
def network() -> MobileFaceNet:
    if not MODELS.is_dir():
        pytest.skip(f"no MobileFaceNet: {MODELS} is absent")
    module = MobileFaceNet().eval().requires_grad_(False)
    state = torch.load(MODELS / "mobilefacenet.pt", map_location="cpu", weights_only=True)
    found = [(key, value.shape) for key, value in module.state_dict().items()]
    assert found == [(key, value.shape) for key, value in state.items()]
    assert len(found) == 307
    module.load_state_dict(state)
    return module


def test_it_equals_the_released_onnx_file(network):
    rng = np.random.default_rng(0)
    # Noise from coarse to fine, of the range of pictures.
    coarse = sum(rng.normal(size=(4, 3, 112 // b, 112 // b)).repeat(b, 2).repeat(b, 3) for b in (1, 4, 16, 56))
    faces = np.clip(coarse / 3, -1, 1).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODELS / "MobileFaceNet.onnx", options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: face[None]})[0] for face in faces])
    found = network(torch.from_numpy(faces)).numpy()
    assert found.shape == (4, 128)
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()


def test_gradients_equal_differences(network):
    torch.manual_seed(0)
    double = copy.deepcopy(network).double()
    x = (torch.randn(1, 3, 112, 112).double() / 2).requires_grad_()
    direction = torch.randn_like(x)
    direction /= direction.norm()
    target = torch.randn(1, 128).double()
    (gradient,) = torch.autograd.grad((double(x) * target).sum(), x)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = ((double(x + side * step * direction) * target).sum() for side in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-7)
    assert gradient.count_nonzero() > 0.99 * gradient.numel()


def test_another_size_is_named():
    with torch.device("meta"), pytest.raises(ValueError, match="expected faces of 112 x 112, found 128 x 128"):
        MobileFaceNet()(torch.zeros(1, 3, 128, 128))


def test_of_an_aligned_picture_it_sees_what_five_points_show_it(network):
    ((frame, (face,)),) = seen("adult_smile.mp4", [0])
    by_points = gpu.to_images(crops.arcface(frame, face.landmarks)[None], torch.device("cpu"))
    whole = gpu.to_images(aligned(frame, face)[None], torch.device("cpu"))
    found, expected = network.embed(whole), network(by_points)
    assert found.norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.nn.functional.cosine_similarity(found, expected).item() > 0.8
