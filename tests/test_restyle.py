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
