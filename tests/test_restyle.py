import numpy as np
import pytest
import torch
from golden import Fixture
from torch.nn import functional as F

from peekaboo.latent import restyle


def test_loop_equals_the_official_one():
    fixture = Fixture("restyle_loop_linear")
    get = lambda name: torch.from_numpy(fixture.input(name)).float()  # noqa: E731
    images, average = get("image"), get("latent_avg").expand(16, -1)
    shown_transform = torch.eye(3)

    def encode(x):
        pooled = F.adaptive_avg_pool2d(x, 4).flatten(1)
        return (pooled @ get("encoder_weight").T + get("encoder_bias")).view(-1, 16, 16)

    def decode(codes):
        v = codes.flatten(1) @ get("decoder_weight").T + get("decoder_bias")
        v = v + (shown_transform - torch.eye(3)).flatten() @ get("decoder_transform_weight").T
        return v.view(-1, 3, 16, 16).repeat_interleave(32, 2).repeat_interleave(32, 3)

    latents, drawn = restyle.iterate(images, encode, decode, average, 3)
    fixture.check("latents", latents)
    fixture.check("images", drawn[..., 16::32, 16::32], "out.images.cells")
    average_image = F.adaptive_avg_pool2d(decode(average[None]), 256)[0]
    fixture.check("average_image", average_image[:, 8::16, 8::16], "out.average_image.cells")


def test_smoothing_is_the_reference_s_where_it_has_neighbours_and_keeps_every_frame():
    latents = np.random.default_rng(0).normal(size=(12, 3, 4)).astype(np.float32)
    found = restyle.smooth(latents)
    assert found.shape == latents.shape
    # yuval-alaluf/stylegan3-editing: [.25, .75, 1, .75, .25] / 3 over five frames.
    for n in range(2, 10):
        expected = np.tensordot(np.array([0.25, 0.75, 1, 0.75, 0.25]) / 3, latents[n - 2 : n + 3], 1)
        np.testing.assert_allclose(found[n], expected, atol=1e-6)
    np.testing.assert_allclose(found[0], (latents[0] + 0.75 * latents[1] + 0.25 * latents[2]) / 2, atol=1e-6)


def test_smoothing_skips_absent_frames():
    latents = np.ones((9, 2, 2), np.float32)
    latents[[3, 4]] = np.nan
    found = restyle.smooth(latents)
    assert np.isnan(found[[3, 4]]).all()
    np.testing.assert_allclose(np.delete(found, [3, 4], 0), 1, atol=1e-6)


class Encoder(torch.nn.Module):
    num_ws, w_dim, size = 4, 8, 16

    def __init__(self, latent_avg=None):
        super().__init__()
        if latent_avg is not None:
            self.register_buffer("latent_avg", latent_avg, persistent=False)

    def forward(self, x):
        assert x.shape[1:] == (6, 16, 16)
        return torch.zeros(len(x), 4, 8)


class Drawer(torch.nn.Module):
    num_ws, w_dim = 4, 8

    def __init__(self):
        super().__init__()
        self.mapping = torch.nn.Module()
        self.mapping.register_buffer("w_avg", torch.arange(8.0))

    def synthesis(self, ws):
        return ws.mean((1, 2))[:, None, None, None].expand(-1, 3, 32, 32)


def test_iterations_start_at_the_encoder_s_own_average_where_it_has_one():
    images = torch.zeros(2, 3, 32, 32)
    assert (restyle.invert(images, Encoder(), Drawer(), 2) == torch.arange(8.0)).all()
    assert (restyle.invert(images, Encoder(torch.ones(8)), Drawer(), 2) == 1).all()


def test_an_encoder_for_another_generator_is_refused():
    encoder = Encoder()
    encoder.num_ws = 16
    with pytest.raises(ValueError, match=r"models\.encoder: expected latents of 4 x 8.*found 16 x 8"):
        restyle.invert(torch.zeros(1, 3, 32, 32), encoder, Drawer(), 1)
