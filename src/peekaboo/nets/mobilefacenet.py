"""MobileFaceNet (Chen et al. 2018, arXiv:1804.07573), a small identity network; names and shapes as in
foamliu/MobileFaceNet (Apache-2.0).
"""

from torch import Tensor, nn
from torch.nn import functional as F

# Expansion, channels, units and first stride of each stage (table 1 of the paper).
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
STEM, LAST, EMBEDDING, SIZE = 64, 512, 128, 112
# An FFHQ-aligned picture is as wide as four times the distance between the eyes, which ArcFace's template puts 35.2 of
# 112 pixels apart: at this side its rows and columns from here on are the template's.
FFHQ_SIDE, FFHQ_EDGE = 141, 15


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Build a convolution, a norm and ReLU6: `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


class SeparableConvolution(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution across them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, channels, H, W]` to the same shape."""
        # ReLU without the bound at 6 that the other layers have.
        return F.relu(self.bn2(self.pointwise(F.relu(self.bn1(self.depthwise(x))))))


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow; beside a shortcut where the shape stays the same."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_channels == out_channels
        wide = in_channels * expansion
        self.conv = nn.Sequential(
            convolution(in_channels, wide, 1),
            convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class GlobalDepthwise(nn.Module):
    """Weigh the places of the last feature map, each channel by itself, where other networks average them."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, channels, side, side]` to `[B, channels, 1, 1]`."""
        return self.bn(self.depthwise(x))


class MobileFaceNet(nn.Module):
    """Identity embedding of an aligned face."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = convolution(3, STEM, 3, 2)
        self.dw_conv = SeparableConvolution(STEM)
        blocks, before = [], STEM
        for expansion, channels, units, stride in STAGES:
            for unit in range(units):
                blocks.append(InvertedResidual(before, channels, 1 if unit else stride, expansion))
                before = channels
        self.conv2 = convolution(before, LAST, 1)
        self.gdconv = GlobalDepthwise(LAST, SIZE // 16)
        self.conv3 = nn.Conv2d(LAST, EMBEDDING, 1)
        self.bn = nn.BatchNorm2d(EMBEDDING)
        self.features = nn.Sequential(*blocks)

    def forward(self, faces: Tensor) -> Tensor:
        """Map RGB faces `[B, 3, 112, 112]` in [-1, 1], aligned by ArcFace's five points, to embeddings `[B, 128]`,
        not of unit length.

        Raises ValueError for faces of another size.
        """
        if faces.shape[-2:] != (SIZE, SIZE):
            raise ValueError(
                f"MobileFaceNet: expected faces of {SIZE} x {SIZE}, found {faces.shape[-2]} x {faces.shape[-1]}; cut "
                "them by five points"
            )
        x = self.conv2(self.features(self.dw_conv(self.conv1(faces))))
        return self.bn(self.conv3(self.gdconv(x))).flatten(1)

    def embed(self, images: Tensor) -> Tensor:
        """Map FFHQ-aligned RGB images `[B, 3, S, S]` in [-1, 1] to unit embeddings `[B, 128]`, differentiably: both
        alignments put eyes and mouth at places of their own, so that one is a part of the other.
        """
        images = F.interpolate(images, (FFHQ_SIDE, FFHQ_SIDE), mode="bilinear", align_corners=False, antialias=True)
        inner = slice(FFHQ_EDGE, FFHQ_EDGE + SIZE)
        return F.normalize(self(images[..., inner, inner]))
