"""LPIPS, the learned perceptual distance (Zhang et al. 2018, arXiv:1801.03924), on AlexNet.

Names and shapes are those of richzhang/PerceptualSimilarity (BSD-2-Clause), version 0.1. The trunk is the AlexNet of
pytorch/vision (BSD-3-Clause, arXiv:1404.5997), whose features.M.* are net.sliceN.M.* here.
"""

import torch
from torch import Tensor, nn

# Channels of the five features.
WIDTHS = (64, 192, 384, 256, 256)
# Mean and deviation of ImageNet's colours, R, G, B, on the scale of images in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10


class ScalingLayer(nn.Module):
    """From images in [-1, 1] to what AlexNet was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to the same shape."""
        return (images - self.shift) / self.scale


class AlexNet(nn.Module):
    """The convolutions of AlexNet, cut after every ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers = (
            nn.Conv2d(3, WIDTHS[0], 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(WIDTHS[0], WIDTHS[1], 5, 1, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(WIDTHS[1], WIDTHS[2], 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(WIDTHS[2], WIDTHS[3], 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(WIDTHS[3], WIDTHS[4], 3, 1, 1),
            nn.ReLU(),
        )
        current = nn.Sequential()
        for place, layer in enumerate(layers):
            current.add_module(str(place), layer)
            if isinstance(layer, nn.ReLU):
                self.add_module(f"slice{len(list(self.children())) + 1}", current)
                current = nn.Sequential()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map `[B, 3, H, W]` to five features `[B, WIDTHS[i], h, w]`."""
        features = []
        for part in self.children():
            x = part(x)
            features.append(x)
        return features


class LinearLayer(nn.Module):
    """Weighs the channels of one feature's squared differences."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The first place is the dropout's that the official weights were trained with.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, channels, h, w]` to `[B, 1, h, w]`."""
        return self.model(x)


def unit(features: Tensor) -> Tensor:
    """Scale `[B, C, h, w]` to unit length over the channels; zero stays zero."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPSILON)


class Lpips(nn.Module):
    """Perceptual distance of images."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = ScalingLayer()
        self.net = AlexNet()
        for i, width in enumerate(WIDTHS):
            setattr(self, f"lin{i}", LinearLayer(width))
        # The official network holds the same layers by a second name, which its whole checkpoints list too.
        self.lins = nn.ModuleList(getattr(self, f"lin{i}") for i in range(len(WIDTHS)))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare RGB images `[B, 3, H, W]` in [-1, 1]: each feature's part of the distance `[B, 5]` (paper,
        equation 1).
        """
        pairs = (self.net(self.scaling_layer(images)) for images in (first, second))
        differences = [(unit(a) - unit(b)).square() for a, b in zip(*pairs, strict=True)]
        parts = [lin(d).mean((1, 2, 3)) for lin, d in zip(self.lins, differences, strict=True)]
        return torch.stack(parts, 1)

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Perceptual distance `[B]` of RGB images `[B, 3, H, W]` in [-1, 1]."""
        return self(first, second).sum(1)
