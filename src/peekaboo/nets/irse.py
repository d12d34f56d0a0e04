"""IR-SE50 and what stands on it: the ArcFace identity network and the ReStyle encoders for StyleGAN3.

The backbone is the improved residual network of ArcFace (Deng et al. 2019, arXiv:1801.07698) with
squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507). Names and shapes are those of TreB1eN/InsightFace_Pytorch, as
yuval-alaluf/stylegan3-editing embeds it; both are under the MIT licence.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peekaboo.nets.stylegan3 import FullyConnected

# Bottlenecks per stage, by the nominal depth.
UNITS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)
# What the identity loss of pSp and ReStyle cuts out of an FFHQ-aligned image of side 256, and its input's side.
FACE_ROWS, FACE_COLUMNS, FACE_SIZE = slice(35, 223), slice(32, 220), 112


class SqueezeExcitation(nn.Module):
    """Scale every channel by what two 1x1 convolutions make of all the channels' means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, channels, H, W]` to the same shape."""
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class Bottleneck(nn.Module):
    """Norm, convolution, PReLU, strided convolution, norm, and excitation where asked for, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, excitation: bool) -> None:
        super().__init__()
        # A pooling window of one pixel only drops pixels, and has no weights.
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        if excitation:
            self.res_layer.append(SqueezeExcitation(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        return self.res_layer(x) + self.shortcut_layer(x)


def input_layer(in_channels: int) -> nn.Sequential:
    """Build the stem: `[B, in_channels, H, W]` to `[B, 64, H, W]`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.PReLU(WIDTHS[0])
    )


def body(num_layers: int, mode: str) -> nn.Sequential:
    """Build the bottlenecks, of which the first of each stage halves the resolution: `[B, 64, H, W]` to
    `[B, 512, H / 16, W / 16]`.

    Raises ValueError where `num_layers` is not 50, 100 or 152, or `mode` neither "ir" nor "ir_se".
    """
    if num_layers not in UNITS:
        raise ValueError(f"num_layers: expected one of {', '.join(map(str, UNITS))}, found {num_layers}")
    if mode not in ("ir", "ir_se"):
        raise ValueError(f"mode: expected ir or ir_se, found {mode}")
    blocks, before = [], WIDTHS[0]
    for width, units in zip(WIDTHS, UNITS[num_layers], strict=True):
        for unit in range(units):
            blocks.append(Bottleneck(before, width, 1 if unit else 2, mode == "ir_se"))
            before = width
    return nn.Sequential(*blocks)


def face_region(images: Tensor) -> Tensor:
    """Cut what ArcFace sees out of FFHQ-aligned images `[B, 3, S, S]` as the identity loss of pSp and ReStyle does:
    `[B, 3, 112, 112]`.

    Images of any side but 256 are average-pooled to it first.
    """
    images = images if images.shape[-1] == 256 else F.adaptive_avg_pool2d(images, 256)
    return F.adaptive_avg_pool2d(images[..., FACE_ROWS, FACE_COLUMNS], FACE_SIZE)


class ArcFace(nn.Module):
    """Identity embedding of an aligned face (checkpoint model_ir_se50.pth)."""

    def __init__(
        self,
        input_size: int = FACE_SIZE,
        num_layers: int = 50,
        mode: str = "ir_se",
        drop_ratio: float = 0.6,
        affine: bool = True,
    ) -> None:
        super().__init__()
        if input_size not in (112, 224):
            raise ValueError(f"input_size: expected 112 or 224, found {input_size}")
        self.input_size = input_size
        self.input_layer = input_layer(3)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(WIDTHS[-1]),
            nn.Dropout(drop_ratio),
            nn.Flatten(),
            nn.Linear(WIDTHS[-1] * (input_size // 16) ** 2, 512),
            nn.BatchNorm1d(512, affine=affine),
        )
        self.body = body(num_layers, mode)

    def forward(self, faces: Tensor) -> Tensor:
        """Map RGB faces `[B, 3, input_size, input_size]` in [-1, 1] to unit embeddings `[B, 512]`.

        The faces are those of `face_region`, or aligned by ArcFace's five points. Raises ValueError for another size.
        """
        if faces.shape[-2:] != (self.input_size, self.input_size):
            raise ValueError(
                f"ArcFace: expected faces of {self.input_size} x {self.input_size}, found "
                f"{faces.shape[-2]} x {faces.shape[-1]}; cut them with face_region or by five points"
            )
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))))

    def embed(self, images: Tensor) -> Tensor:
        """Map FFHQ-aligned RGB images `[B, 3, S, S]` in [-1, 1] to unit embeddings `[B, 512]`."""
        return self(face_region(images))


class StyleHead(nn.Module):
    """One latent from the last feature map: halve it to a single pixel, then a linear layer (map2style of pSp,
    Richardson et al. 2021, arXiv:2008.00951).
    """

    def __init__(self, channels: int, w_dim: int, side: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for i in range(side.bit_length() - 1):
            self.convs.append(nn.Conv2d(w_dim if i else channels, w_dim, 3, 2, 1))
            self.convs.append(nn.LeakyReLU(0.01))
        self.linear = FullyConnected(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, channels, side, side]` to `[B, w_dim]`."""
        return self.linear(self.convs(x).flatten(1))


class PspEncoder(nn.Module):
    """ReStyle encoder (Alaluf et al. 2021, arXiv:2104.02699) in pSp form: every head gives its layer's
    residual latent.
    """

    size, w_dim = 256, 512

    def __init__(self, num_layers: int = 50, mode: str = "ir_se", n_styles: int = 16, input_nc: int = 6) -> None:
        super().__init__()
        self.num_ws = n_styles
        self.input_layer = input_layer(input_nc)
        self.body = body(num_layers, mode)
        self.styles = nn.ModuleList(StyleHead(WIDTHS[-1], self.w_dim, self.size // 16) for _ in range(n_styles))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, input_nc, 256, 256]`, RGB frame and reconstruction in [-1, 1], to residual latents
        `[B, n_styles, 512]`.

        Smaller images pass as well, for the heads' padding covers them. Raises ValueError for larger ones.
        """
        if max(x.shape[-2:]) > self.size:
            raise ValueError(
                f"ReStyle encoder: expected images of {self.size} x {self.size}, found {x.shape[-2]} x {x.shape[-1]}; "
                "average-pool them first"
            )
        x = self.body(self.input_layer(x))
        return torch.stack([style(x) for style in self.styles], 1)


class E4eEncoder(PspEncoder):
    """ReStyle encoder in e4e form (Tov et al. 2021, arXiv:2102.02766): the first head gives one latent for
    all layers, the others an offset each.

    The weights have the same names and shapes as those of the pSp form; only the checkpoint's `opts.encoder_type`
    tells which form they were trained in.
    """

    def forward(self, x: Tensor, stage: int | None = None) -> Tensor:
        """Map `[B, input_nc, 256, 256]`, RGB frame and reconstruction in [-1, 1], to residual latents
        `[B, n_styles, 512]`.

        Progressive training adds only the first `stage` offsets; None adds all.
        """
        first, offsets = super().forward(x).tensor_split([1], 1)
        added = first + offsets[:, :stage]
        return torch.cat([first, added, first.expand(-1, offsets.shape[1] - added.shape[1], -1)], 1)
