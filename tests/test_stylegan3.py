import json

import numpy as np
import pytest
import scipy.signal
import torch
from golden import FOLDER, Fixture
from torch.nn import functional as F

from peekaboo.nets import stylegan3


def load(name: str, **kwargs) -> tuple[Fixture, stylegan3.Generator]:
    fixture = Fixture(name)
    generator = stylegan3.Generator(**fixture.manifest["networks"][0]["constructor"], **kwargs).eval()
    designed = generator.state_dict()
    state = fixture.state_dict()
    for key, value in state.items():
        if key.endswith("_filter"):
            torch.testing.assert_close(designed[key], value, rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}")
    missing, unexpected = generator.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"synthesis.input.transform"}
    official = [entry["key"] for entry in fixture.manifest["networks"][0]["state_dict"]]
    assert sorted(designed) == sorted(official)
    return fixture, generator


@pytest.mark.parametrize("name", ["stylegan3_t_64", "stylegan3_r_64"])
def test_generator_equals_the_official_one(name):
    fixture, generator = load(name)
    z = torch.from_numpy(fixture.input("z"))
    with torch.no_grad():
        fixture.check("w_psi1", generator.mapping(z)[:, 0])
        ws = generator.mapping(z, truncation_psi=0.7)
        fixture.check("ws_psi0.7", ws)
        fixture.check("ws_psi0.7_cutoff8", generator.mapping(z, truncation_psi=0.7, truncation_cutoff=8))
        ws = ws + torch.from_numpy(fixture.input("ws_delta"))
        fixture.check("ws", ws)
        fixture.check("img", generator.synthesis(ws))
        fixture.check("img_one_ws", generator.synthesis(ws[:1]))
        for transform in ("transform", "transform_per_sample"):
            generator.synthesis.input.transform = torch.from_numpy(fixture.input(transform)).float()
            fixture.check(f"img_{transform}", generator.synthesis(ws))


@pytest.mark.parametrize("name", ["stylegan3_t_64", "stylegan3_r_64"])
def test_every_layer_equals_the_official_one(name):
    fixture, generator = load(name)
    ws = torch.from_numpy(fixture.arrays["out.ws"])
    with torch.no_grad():
        x = generator.synthesis.input(ws[:, 0])
        features = {"input": x}
        for i, layer in enumerate(generator.synthesis.layer_names):
            x = getattr(generator.synthesis, layer)(x, ws[:, i + 1])
            features[layer] = x
    for layer, feature in features.items():
        middle = slice(feature.shape[-1] // 2 - 4, feature.shape[-1] // 2 + 4)
        fixture.check(f"feature.{layer}", feature[:, :4, middle, middle], f"out.feature.{layer}.crop")


@pytest.mark.parametrize("name", ["stylegan3_t_64", "stylegan3_r_64"])
def test_gradients_equal_the_official_ones(name):
    fixture, generator = load(name)
    ws = torch.from_numpy(fixture.arrays["out.ws"]).requires_grad_()
    loss = generator.synthesis(ws).square().mean()
    loss.backward()
    layer = next(getattr(generator.synthesis, n) for n in generator.synthesis.layer_names if n.startswith("L3_"))
    fixture.check("loss_mean_square", loss.view(1))
    fixture.check("grad_ws", ws.grad)
    head = fixture.arrays["out.grad_L3_weight.head"].shape
    fixture.check("grad_L3_weight", layer.weight.grad[: head[0], : head[1]], "out.grad_L3_weight.head")
    fixture.check("grad_L3_bias", layer.bias.grad)
    fixture.check("grad_L3_affine_weight", layer.affine.weight.grad[:8, :8], "out.grad_L3_affine_weight.head")


@pytest.mark.parametrize("name", ["stylegan3_t_64", "stylegan3_r_64"])
def test_clamp_acts_before_the_downsampling_filter(name):
    fixture, generator = load(name, conv_clamp=0.6)
    with torch.no_grad():
        fixture.check("img_conv_clamp_0.6", generator.synthesis(torch.from_numpy(fixture.arrays["out.ws"])))


@pytest.mark.parametrize("layout", ["t-ffhq-1024", "r-ffhq-1024", "t-ffhqu-256", "r-ffhqu-256", "r-256-undoubled"])
def test_published_sizes_have_the_official_layout(layout):
    if not FOLDER.is_dir():
        pytest.skip(f"no parity fixtures: {FOLDER} is absent")
    network = json.loads((FOLDER / f"layout_stylegan3-{layout}.json").read_text())
    network = network.get("networks", [network])[0]
    with torch.device("meta"):
        # Filters come from NumPy, so the constructor needs them on the CPU; only their shapes matter here.
        original, stylegan3.design_filter = stylegan3.design_filter, lambda *a, **k: _meta(original(*a, **k))
        try:
            generator = stylegan3.Generator(**network["constructor"])
        finally:
            stylegan3.design_filter = original
    found = {key: list(value.shape) for key, value in generator.state_dict().items()}
    assert found == {entry["key"]: entry["shape"] for entry in network["state_dict"]}


def _meta(tensor):
    return None if tensor is None else torch.empty(tensor.shape, device="meta")


def straightforward(x, up_filter, down_filter, up, down, padding, gain, slope, clamp):
    """Zero-insert, pad, convolve, activate, convolve, stride: the definition, for separable filters."""
    batch, channels, height, width = x.shape
    y = x.new_zeros(batch, channels, height * up, width * up)
    y[..., ::up, ::up] = x
    y = F.pad(y, [padding[0], padding[1], padding[0], padding[1]])
    for f, stride in ((up_filter * up, 1), (down_filter, down)):
        kernel = f.flip(0).expand(channels, 1, -1)
        y = F.conv2d(y, kernel.unsqueeze(2), groups=channels)
        y = F.conv2d(y, kernel.unsqueeze(3), groups=channels)
        y = (F.leaky_relu(y, slope) * gain).clamp(-clamp, clamp) if stride == 1 else y[..., ::stride, ::stride]
    return y


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str
)
@pytest.mark.parametrize(("up", "down", "padding"), [(2, 2, (9, 8)), (4, 2, (-6, -9)), (2, 4, (3, 5))])
def test_filtered_leaky_relu_equals_its_definition(up, down, padding, dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 31, 31).to(dtype).double().requires_grad_()
    up_filter = torch.randn(6 * up).float()
    down_filter = torch.randn(6 * down).float()
    arguments = (up, down, padding, 1.3, 0.2, 0.8)
    expected = straightforward(x, up_filter.double(), down_filter.double(), *arguments)
    weights = torch.randn_like(expected).to(dtype)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), x)
    filters = stylegan3.resampling(up_filter, down_filter, up, down, 31, padding, torch.device("cpu"), dtype)
    assert (filters.bands is None) == (dtype == torch.float64)
    y = x.detach().to(dtype).requires_grad_()
    found = stylegan3.filtered_leaky_relu(y, filters, *arguments[3:])
    (found_grad,) = torch.autograd.grad((found * weights).sum(), y)
    for left, right in ((found, expected), (found_grad, expected_grad)):
        # Where rounding moves a value across the clamp, the gradient jumps: judge the error as a whole.
        error = (left.double() - right).norm() / right.norm()
        assert error < tolerance


@pytest.mark.parametrize(("taps", "cutoff", "width", "rate"), [(12, 2, 12, 32), (24, 4, 8, 64), (12, 32, 14.8, 128)])
def test_filter_design_equals_scipy(taps, cutoff, width, rate):
    expected = scipy.signal.firwin(taps, cutoff=cutoff, width=width, fs=rate)
    np.testing.assert_allclose(stylegan3.design_filter(taps, cutoff, width, rate).numpy(), expected, atol=1e-7)
