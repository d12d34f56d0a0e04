"""Small residual networks over aligned crops: the ReStyle encoder, the identity and attribute judges, perceptual
features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Share of an FFHQ-aligned crop's side that holds the face from brows to chin.
INNER = 0.625
EXPRESSIONS = ("neutral", "smile", "cry", "distress", "surprise", "yawn", "open_mouth")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut; halves the resolution where `stride` is 2."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResidualTrunk(nn.Module):
    """A stem and one halving block per width; the last feature map has side S / 2 ** len(widths)."""

    def __init__(self, in_channels: int, widths: list[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1)
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.blocks = nn.ModuleList(ResidualBlock(i, o, 2) for i, o in pairs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images `[B, C, S, S]` to the feature maps of every block."""
        x, features = F.relu(self.stem(x)), []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


def resized(images: Tensor, size: int) -> Tensor:
    """Resize `[B, C, S, S]` to `[B, C, size, size]`: area average when shrinking by whole factors, bilinear
    otherwise.
    """
    if images.shape[-1] == size:
        return images
    if images.shape[-1] % size == 0:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def inner_face(images: Tensor, size: int, inner: int) -> Tensor:
    """Cut `[B, C, inner, inner]` out of FFHQ-aligned crops `[B, C, S, S]` brought to `size`, around nose and mouth."""
    # FFHQ's alignment puts the eyes at 47 % and the mouth at 75 % of the height.
    top, left = min(round(0.625 * size) - inner // 2, size - inner), (size - inner) // 2
    return resized(images, size)[..., top : top + inner, left : left + inner]


def feature_distances(trunk: ResidualTrunk, first: Tensor, second: Tensor) -> Tensor:
    """Compare images `[B, C, S, S]` as LPIPS does (Zhang et al. 2018): squared differences of channel-normalised
    features, summed over channels, averaged over places; `[B]` for every block.
    """
    pairs = zip(trunk(first), trunk(second), strict=True)
    return torch.stack([(F.normalize(a) - F.normalize(b)).square().sum(1).mean([1, 2]) for a, b in pairs])


class Head(nn.Module):
    """Shrink the last feature map's channels, flatten, one linear layer."""

    def __init__(self, channels: int, side: int, squeezed: int, out_features: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.linear = nn.Linear(squeezed * side * side, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, channels, side, side]` to `[B, out_features]`."""
        return self.linear(F.relu(self.squeeze(x)).flatten(1))


class RestyleEncoder(nn.Module):
    """Residual latents from a frame and the current reconstruction, in e4e form: one code for all layers plus an
    offset each.

    Stands where the IR-SE50 encoder of ReStyle (Alaluf et al. 2021) stands for full-size generators.
    """

    def __init__(self, num_ws: int, w_dim: int, widths: list[int], squeezed: int, size: int) -> None:
        super().__init__()
        self.num_ws, self.w_dim, self.size = num_ws, w_dim, size
        self.trunk = ResidualTrunk(6, widths)
        self.head = Head(widths[-1], size >> len(widths), squeezed, (num_ws + 1) * w_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 6, S, S]`, frame and reconstruction in [-1, 1], to latents `[B, num_ws, w_dim]`."""
        codes = self.head(self.trunk(resized(x, self.size))[-1]).view(-1, self.num_ws + 1, self.w_dim)
        return codes[:, :1] + codes[:, 1:]


class FaceNetwork(nn.Module):
    """A trunk that sees the inner face of an FFHQ-aligned crop, `inner` of the `size` pixels that the crop is brought
    to.
    """

    def __init__(self, widths: list[int], size: int, inner: int) -> None:
        super().__init__()
        self.size, self.inner = size, inner
        self.trunk = ResidualTrunk(3, widths)

    def features(self, images: Tensor) -> Tensor:
        """Map RGB images `[B, 3, S, S]` in [-1, 1] to the last feature map."""
        return self.trunk(inner_face(images, self.size, self.inner))[-1]

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance `[B]` of what the faces in FFHQ-aligned images `[B, 3, S, S]` in [-1, 1] show."""
        faces = (inner_face(images, self.size, self.inner) for images in (first, second))
        return feature_distances(self.trunk, *faces).mean(0)


class FaceEmbedder(FaceNetwork):
    """Identity embedding of an FFHQ-aligned crop, for the ArcFace loss (Deng et al. 2019)."""

    def __init__(self, widths: list[int], dimensions: int, size: int, inner: int) -> None:
        super().__init__(widths, size, inner)
        self.head = Head(widths[-1], inner >> len(widths), 64, dimensions)
        self.norm = nn.BatchNorm1d(dimensions)

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB images `[B, 3, S, S]` in [-1, 1] to unit embeddings `[B, dimensions]`."""
        return F.normalize(self.norm(self.head(self.features(images))))

    def embed(self, images: Tensor) -> Tensor:
        """Embed FFHQ-aligned images, which this network takes as they are."""
        return self(images)


class FaceAttributes(FaceNetwork):
    """Valence, arousal, expression, age and sex of an FFHQ-aligned crop."""

    expressions = EXPRESSIONS

    def __init__(self, widths: list[int], size: int, inner: int) -> None:
        super().__init__(widths, size, inner)
        self.head = Head(widths[-1], inner >> len(widths), 64, 4 + len(EXPRESSIONS))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Read RGB images `[B, 3, S, S]` in [-1, 1]: means over the face and its mirror image, which shows the same.

        Returns valence and arousal `[B]` in [-1, 1], age `[B]` in 0 (newborn) to 1 (adult), sex `[B]` as the logit of
        male, expression `[B, 7]` as logits in the order of `expressions`.
        """
        found = self.read(self.features(torch.cat([images, images.flip(-1)])))
        return {name: torch.stack(value.chunk(2)).mean(0) for name, value in found.items()}

    def labels(self, images: Tensor) -> dict[str, Tensor]:
        """What a walk is to leave alone, as RGB images `[B, 3, S, S]` in [-1, 1] show it: valence as emotion, arousal,
        age and sex, `[B]` each.
        """
        found = self(images)
        return {"emotion": found["valence"], **{name: found[name] for name in ("arousal", "age", "sex")}}

    def read(self, features: Tensor) -> dict[str, Tensor]:
        """Read the last feature map, see `forward`."""
        y = self.head(features)
        return {
            "valence": y[:, 0].tanh(),
            "arousal": y[:, 1].tanh(),
            "age": y[:, 2].sigmoid(),
            "sex": y[:, 3],
            "expression": y[:, 4:],
        }


class PerceptualFeatures(nn.Module):
    """Features of a network that reads what a render shows, compared as LPIPS does (Zhang et al. 2018)."""

    def __init__(self, widths: list[int], outputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.trunk = ResidualTrunk(3, widths)
        self.head = Head(widths[-1], size >> len(widths), 128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB images `[B, 3, S, S]` in [-1, 1] to their standardised description `[B, outputs]`, see
        `synth.render.description`.
        """
        return self.head(self.trunk(resized(images, self.size))[-1])

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Perceptual distance `[B]` of FFHQ-aligned images `[B, 3, S, S]` in [-1, 1].

        Mean over blocks of the whole pictures' distances and, where they are larger than the network's, of the inner
        faces' in full resolution too.
        """
        side = first.shape[-1]
        views = [(resized(first, self.size), resized(second, self.size))]
        if side > self.size:
            views.append(tuple(inner_face(images, side, round(INNER * side)) for images in (first, second)))
        return torch.cat([feature_distances(self.trunk, *pair) for pair in views]).mean(0)
