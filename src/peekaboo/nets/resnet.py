"""ResNet-50 (He et al. 2016, arXiv:1512.03385); names and shapes as in pytorch/vision (BSD-3-Clause).

As there, the 3x3 convolution of a bottleneck has the stride, where the paper gives it to the first 1x1 convolution.
"""

from torch import Tensor, nn
from torch.nn import functional as F

# Bottlenecks and inner width of each stage; a bottleneck gives four times as many channels.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
EXPANSION, FEATURES = 4, 2048


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, each with batch norm, beside a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, 4 * width, H / stride, W / stride]`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def stage(in_channels: int, width: int, units: int, stride: int) -> nn.Sequential:
    """Build a stage, whose first bottleneck has the stride: `[B, in, H, W]` to
    `[B, 4 * width, H / stride, W / stride]`.
    """
    inputs = [in_channels] + [width * EXPANSION] * (units - 1)
    return nn.Sequential(*(Bottleneck(channels, width, 1 if i else stride) for i, channels in enumerate(inputs)))


class ResNet50(nn.Module):
    """The network without its last, fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for i, (units, width) in enumerate(STAGES, 1):
            setattr(self, f"layer{i}", stage(before, width, units, 1 if i == 1 else 2))
            before = width * EXPANSION

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, 3, H, W]`, normalised as the weights ask for it, to features `[B, 2048]`, means over all
        places of the last feature map.
        """
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for i in range(1, len(STAGES) + 1):
            x = getattr(self, f"layer{i}")(x)
        return x.mean((2, 3))
