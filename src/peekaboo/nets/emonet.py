"""EmoNet (Toisoul et al. 2021, Nature Machine Intelligence 3:42-50): expression, valence and arousal of a face.

A face alignment network of two stacked hourglasses (FAN, Bulat and Tzimiropoulos 2017, arXiv:1703.07332), whose
features around the landmarks a small network reads. Names and shapes are those of face-analysis/emonet. Every norm is a
batch norm: the official program gets them by putting BatchNorm2d in the place of InstanceNorm2d for the whole process,
here they are simply that.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE, WIDTH, LANDMARKS, DEPTH, HOURGLASSES = 256, 256, 68, 4, 2
# The network with five classes knows the first five.
# By their number. With five classes the official loader of AffectNet counts anger in fear's place.
EXPRESSIONS = {
    8: ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt"),
    5: ("neutral", "happy", "sad", "surprise", "anger"),
}


class ConvBlock(nn.Module):
    """Three 3x3 convolutions in a row, side by side in the output, plus a shortcut (Bulat and Tzimiropoulos 2017,
    arXiv:1703.00862).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, half, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, 1, 1, bias=False)
        self.downsample = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Sequential(
                nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, H, W]`."""
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return torch.cat([first, second, third], 1) + self.downsample(x)


class Hourglass(nn.Module):
    """Halve the resolution `DEPTH` times and come back, with a branch at every resolution on the way (Newell et al.
    2016, arXiv:1603.06937).
    """

    def __init__(self) -> None:
        super().__init__()
        levels = range(DEPTH, 0, -1)
        down = [f"b{branch}_{level}" for level in levels for branch in (1, 2)]
        for name in (*down, "b2_plus_1", *(f"b3_{level}" for level in reversed(levels))):
            setattr(self, name, ConvBlock(WIDTH, WIDTH))

    def forward(self, x: Tensor, level: int = DEPTH) -> Tensor:
        """Map `[B, 256, H, W]` to the same shape."""
        aside, down, up = (getattr(self, f"b{branch}_{level}") for branch in (1, 2, 3))
        low = down(F.max_pool2d(x, 2))
        low = self(low, level - 1) if level > 1 else self.b2_plus_1(low)
        return aside(x) + F.interpolate(up(low), scale_factor=2, mode="nearest")


class EmoNet(nn.Module):
    """Landmark heatmaps, expression, valence and arousal (checkpoints emonet_8.pth and emonet_5.pth, whose names begin
    with "module.").
    """

    def __init__(self, n_expression: int = 8) -> None:
        super().__init__()
        if n_expression not in EXPRESSIONS:
            raise ValueError(f"n_expression: expected 5 or 8, found {n_expression}")
        self.expressions = EXPRESSIONS[n_expression]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = ConvBlock(64, 128)
        self.conv3 = ConvBlock(128, 128)
        self.conv4 = ConvBlock(128, WIDTH)
        for i in range(HOURGLASSES):
            setattr(self, f"m{i}", Hourglass())
            setattr(self, f"top_m_{i}", ConvBlock(WIDTH, WIDTH))
            setattr(self, f"conv_last{i}", nn.Conv2d(WIDTH, WIDTH, 1))
            setattr(self, f"bn_end{i}", nn.BatchNorm2d(WIDTH))
            setattr(self, f"l{i}", nn.Conv2d(WIDTH, LANDMARKS, 1))
            if i < HOURGLASSES - 1:
                setattr(self, f"bl{i}", nn.Conv2d(WIDTH, WIDTH, 1))
                setattr(self, f"al{i}", nn.Conv2d(LANDMARKS, WIDTH, 1))
        self.conv1x1_input_emo_2 = nn.Conv2d(WIDTH * (1 + HOURGLASSES), WIDTH, 1)
        self.emo_net_2 = nn.Sequential()
        for _ in range(4):
            self.emo_net_2.extend([ConvBlock(WIDTH, WIDTH), nn.MaxPool2d(2)])
        self.avg_pool_2 = nn.AvgPool2d(4)
        self.emo_fc_2 = nn.Sequential(
            nn.Linear(WIDTH, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, n_expression + 2)
        )

    def forward(self, faces: Tensor) -> dict[str, Tensor]:
        """Read RGB faces `[B, 3, 256, 256]` in [0, 1], tight crops without normalisation of colours.

        Returns heatmap `[B, 68, 64, 64]`, expression `[B, n_expression]` as logits in the order of `expressions`,
        valence and arousal `[B]`, about [-1, 1], not clamped. Raises ValueError for faces of another size.
        """
        if faces.shape[-2:] != (SIZE, SIZE):
            raise ValueError(
                f"EmoNet: expected faces of {SIZE} x {SIZE}, found {faces.shape[-2]} x {faces.shape[-1]}; resize the "
                "crops first"
            )
        x = F.max_pool2d(self.conv2(F.relu(self.bn1(self.conv1(faces)))), 2)
        x = self.conv4(self.conv3(x))
        current, handed = x, []
        for i in range(HOURGLASSES):
            names = ("m", "top_m_", "conv_last", "bn_end", "l")
            hourglass, top, last, norm, read = (getattr(self, f"{name}{i}") for name in names)
            y = F.relu(norm(last(top(hourglass(current)))))
            heatmap = read(y)
            if i < HOURGLASSES - 1:
                y = getattr(self, f"bl{i}")(y)
                current = current + y + getattr(self, f"al{i}")(heatmap)
            handed.append(y)
        # Attention: features count where the last hourglass sees landmarks.
        attended = torch.cat(handed, 1) * heatmap.sum(1, keepdim=True)
        y = self.emo_net_2(self.conv1x1_input_emo_2(torch.cat([x, attended], 1)))
        y = self.emo_fc_2(self.avg_pool_2(y).flatten(1))
        return {"heatmap": heatmap, "expression": y[:, :-2], "valence": y[:, -2], "arousal": y[:, -1]}
