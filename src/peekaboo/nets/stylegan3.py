"""StyleGAN3 generator, configurations T and R (Karras et al. 2021, arXiv:2106.12423; names and shapes as in
NVlabs/stylegan3).

The state_dict layout and the numbers are those of the official networks. What differs is how the filtered leaky ReLU is
computed: each filter becomes a banded matrix along each axis, so that resampling is two matrix products; on a CPU a
compiled loop over their bands (banded.py).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate: weights are stored at unit scale and divided by sqrt(in) when used."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in]` to `[B, out]`."""
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(x, 0.2) * math.sqrt(2) if self.activation == "lrelu" else x


class MappingNetwork(nn.Module):
    """z -> w, repeated for every layer, with truncation towards the mean w."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
    ) -> None:
        super().__init__()
        if c_dim:
            raise ValueError(f"class-conditional generators are not supported: expected c_dim 0, found {c_dim}")
        self.num_ws, self.num_layers, self.w_avg_beta = num_ws, num_layers, w_avg_beta
        widths = [z_dim] + [w_dim] * num_layers
        for i in range(num_layers):
            setattr(self, f"fc{i}", FullyConnected(widths[i], widths[i + 1], "lrelu", lr_multiplier))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """Map z `[B, z_dim]` to latents `[B, num_ws, w_dim]`; the first `truncation_cutoff` of them are truncated
        (None: all).
        """
        x = z.float()
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.training:
            self.w_avg.copy_(x.detach().mean(0).lerp(self.w_avg, self.w_avg_beta))
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            ws[:, :truncation_cutoff] = self.w_avg.lerp(ws[:, :truncation_cutoff], truncation_psi)
        return ws


class SynthesisInput(nn.Module):
    """Fourier features on a grid that w, and the user's `transform`, rotate and shift."""

    def __init__(self, w_dim: int, channels: int, size: int, sampling_rate: float, bandwidth: float) -> None:
        super().__init__()
        self.channels, self.size, self.sampling_rate, self.bandwidth = channels, size, sampling_rate, bandwidth
        freqs = torch.randn(channels, 2)
        radii = freqs.square().sum(1, keepdim=True).sqrt()
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * bandwidth
        self.weight = nn.Parameter(torch.randn(channels, channels))
        # The inverse of the wanted image transform: [3, 3], or one per sample [B, 3, 3].
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.affine = FullyConnected(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """Map `[B, w_dim]` to feature maps `[B, C, size, size]`; a `transform` `[3, 3]` or `[B, 3, 3]` stands in for
        the buffer of that name.
        """
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cos, sin, dx, dy = t.unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -dx, zero, one, -dy, zero, zero, one], 1).view(-1, 3, 3)
        transform = rotation @ shift @ (self.transform if transform is None else transform)  # [B, 3, 3]
        phases = self.phases + (self.freqs @ transform[:, :2, 2:]).squeeze(2)  # [B, C]
        freqs = self.freqs @ transform[:, :2, :2]  # [B, C, 2]
        # Frequencies that the transform pushes past what the grid can carry are faded out.
        cutoff_room = self.sampling_rate / 2 - self.bandwidth
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / cutoff_room).clamp(0, 1)
        axis = (
            torch.arange(self.size, device=w.device) + 0.5
        ) / self.sampling_rate - self.size / self.sampling_rate / 2
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)  # [size * size, 2] as (x, y)
        x = torch.sin((grid @ freqs.mT + phases.unsqueeze(1)) * (2 * math.pi)) * amplitudes.unsqueeze(1)
        x = x @ self.weight.mT / math.sqrt(self.channels)
        return x.mT.reshape(len(w), self.channels, self.size, self.size)


def design_filter(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """Kaiser-windowed low-pass filter `[taps]`, or jinc-based `[taps, taps]` when radial (paper, appendix C.1); None
    for 1 tap.

    `cutoff` and the transition `width` are in cycles per image side, `rate` in samples per image side.
    """
    if taps == 1:
        return None
    # Kaiser's attenuation and beta, as scipy.signal.kaiser_atten and kaiser_beta compute them.
    attenuation = 2.285 * (taps - 1) * math.pi * (width / (rate / 2)) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = np.kaiser(taps, beta)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    if radial:
        radius = np.hypot(*np.meshgrid(x, x))
        f = torch.special.bessel_j1(torch.from_numpy(2 * cutoff * np.pi * radius)).numpy() / (np.pi * radius)
        f = f * np.outer(window, window)
    else:
        f = np.sinc(2 * cutoff * x) * window
    return torch.as_tensor(f / f.sum(), dtype=torch.float32)


def upsampling_matrix(f: np.ndarray, up: int, in_size: int, padding: tuple[int, int]) -> np.ndarray:
    """Matrix `[in_size * up + sum(padding) - taps + 1, in_size]` that inserts zeros, pads (or crops), filters and
    keeps the level.
    """
    size = in_size * up + sum(padding) - len(f) + 1
    matrix = np.zeros([size, in_size], np.float32)
    for row in range(size):
        source = row + np.arange(len(f)) - padding[0]
        hit = (source % up == 0) & (source >= 0) & (source < in_size * up)
        matrix[row, source[hit] // up] = f[::-1][hit] * up
    return matrix


def downsampling_matrix(f: np.ndarray, down: int, in_size: int) -> np.ndarray:
    """Matrix `[(in_size - taps) // down + 1, in_size]` that filters and keeps every `down`-th sample."""
    size = (in_size - len(f)) // down + 1
    matrix = np.zeros([size, in_size], np.float32)
    for row in range(size):
        matrix[row, row * down : row * down + len(f)] = f[::-1]
    return matrix


@dataclass(frozen=True)
class Resampling:
    """One layer's filters as matrices; rank is 1 for a separable down filter, at most taps / 2 for a radial one."""

    up: Tensor  # [mid, in]
    rows: Tensor  # [rank, out, mid]
    columns: Tensor  # [rank, out, mid]
    bands: tuple[np.ndarray, ...] | None  # of up, down and both transposed, see banded.bands; on a CPU,
    # with rank 1 and at most 32 bits


def resampling(
    up_filter: Tensor,
    down_filter: Tensor,
    up: int,
    down: int,
    in_size: int,
    padding: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Resampling:
    """Turn a layer's filters, separable `[taps]` or radial `[taps, taps]`, into matrices for planes `[in, in]`."""
    up_matrix = upsampling_matrix(up_filter.double().cpu().numpy(), up, in_size, padding)
    taps = down_filter.double().cpu().numpy()
    if taps.ndim == 1:
        rows = columns = [taps]
    else:
        u, s, vt = np.linalg.svd(taps)
        kept = s > s[0] * 1e-9
        rows, columns = (u * s)[:, kept].T, vt[kept]
    mid = len(up_matrix)
    down_rows, down_columns = (np.stack([downsampling_matrix(f, down, mid) for f in fs]) for fs in (rows, columns))
    bands = None
    if device.type == "cpu" and taps.ndim == 1 and dtype != torch.float64:
        # Compiled for CPUs alone, so that a card's environment needs no compiler.
        from peekaboo.nets import banded

        matrices = (up_matrix, down_rows[0], up_matrix.T, down_rows[0].T)
        bands = tuple(part for matrix in matrices for part in banded.bands(matrix))
    dense = (torch.from_numpy(m).to(device, dtype) for m in (up_matrix, down_rows, down_columns))
    return Resampling(*dense, bands)


class _FilteredLeakyReLU(torch.autograd.Function):
    """Upsample, leaky ReLU, clamp, downsample planes `[N, H, H]`; nothing is kept but x."""

    @staticmethod
    def forward(ctx, x, up, rows, columns, slope, clamp):
        ctx.save_for_backward(x, up, rows, columns)
        ctx.slope, ctx.clamp = slope, clamp
        y = F.leaky_relu_(up @ (x @ up.mT), slope).clamp_(-clamp, clamp)
        return sum(row @ (y @ column.mT) for row, column in zip(rows, columns, strict=True))

    @staticmethod
    def backward(ctx, grad):
        x, up, rows, columns = ctx.saved_tensors
        g = sum(row.mT @ (grad @ column) for row, column in zip(rows, columns, strict=True))
        y = up @ (x @ up.mT)
        g = torch.ops.aten.hardtanh_backward(g, y, -ctx.clamp / ctx.slope, ctx.clamp)
        g = torch.ops.aten.leaky_relu_backward(g, y, ctx.slope, False)
        return (up.mT @ g) @ up, None, None, None, None, None


def filtered_leaky_relu(
    x: Tensor, filters: Resampling, gain: float = math.sqrt(2), slope: float = 0.2, clamp: float = 256.0
) -> Tensor:
    """Upsample `[B, C, H, H]`, apply leaky ReLU times gain and clamp, downsample (paper, section 3.2).

    Same numbers as inserting zeros, padding both axes, convolving, activating, convolving and striding. `filters` are
    those of `resampling`, on the device and in the type of `x`.
    """
    batch, channels, height, width = x.shape
    if height != filters.up.shape[1] or width != filters.up.shape[1]:
        raise ValueError(
            f"expected feature maps of {filters.up.shape[1]} x {filters.up.shape[1]}, found {height} x {width}"
        )
    planes = x.reshape(-1, height, width)
    if filters.bands is not None:
        from peekaboo.nets import banded

        out = banded.FilteredLeakyReLU.apply(planes, filters.bands, gain, slope, clamp)
    else:
        # A clamp after the gain is a clamp before it at clamp / gain; the gain itself goes into the small matrix.
        rows = filters.rows * gain
        out = _FilteredLeakyReLU.apply(planes, filters.up, rows, filters.columns, slope, clamp / gain)
    return out.view(batch, channels, *out.shape[1:])


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, input_gain: Tensor, demodulate: bool) -> Tensor:
    """Convolve `[B, C, H, W]` with `weight` `[O, C, k, k]` modulated by `styles` `[B, C]`, padded by k - 1 on each
    side.

    Styles scale the input and demodulation scales the output, so that one ordinary convolution serves the whole batch.
    """
    if demodulate:
        weight = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
        scale = (styles.square() @ weight.square().sum([2, 3]).mT + 1e-8).rsqrt() * input_gain
    else:
        scale = input_gain.expand(len(x), len(weight))
    y = F.conv2d(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=weight.shape[-1] - 1)
    return y * scale.to(x.dtype)[:, :, None, None]


class SynthesisLayer(nn.Module):
    """One layer: modulated convolution, bias, filtered leaky ReLU; the last one (to RGB) is neither demodulated nor
    filtered.
    """

    def __init__(
        self,
        w_dim: int,
        is_torgb: bool,
        is_critically_sampled: bool,
        in_channels: int,
        out_channels: int,
        in_size: int,
        out_size: int,
        in_sampling_rate: int,
        out_sampling_rate: int,
        in_cutoff: float,
        out_cutoff: float,
        in_half_width: float,
        out_half_width: float,
        conv_kernel: int,
        filter_size: int,
        lrelu_upsampling: int,
        use_radial_filters: bool,
        conv_clamp: float,
        magnitude_ema_beta: float,
    ) -> None:
        super().__init__()
        self.is_torgb, self.conv_clamp, self.magnitude_ema_beta = is_torgb, conv_clamp, magnitude_ema_beta
        kernel = 1 if is_torgb else conv_kernel
        rate = max(in_sampling_rate, out_sampling_rate) * (1 if is_torgb else lrelu_upsampling)
        self.up, self.down = rate // in_sampling_rate, rate // out_sampling_rate
        up_taps = filter_size * self.up if self.up > 1 and not is_torgb else 1
        down_taps = filter_size * self.down if self.down > 1 and not is_torgb else 1
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.register_buffer("up_filter", design_filter(up_taps, in_cutoff, in_half_width * 2, rate))
        radial = use_radial_filters and not is_critically_sampled
        self.register_buffer("down_filter", design_filter(down_taps, out_cutoff, out_half_width * 2, rate, radial))
        total = (out_size - 1) * self.down + 1 - (in_size + kernel - 1) * self.up + up_taps + down_taps - 2
        low = (total + self.up) // 2
        self.in_size, self.padding = in_size + kernel - 1, (low, total - low)
        self._filters: dict[tuple[torch.dtype, torch.device], Resampling] = {}

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._filters.clear()

    def filters(self, x: Tensor) -> Resampling:
        """The layer's resampling matrices on the device and in the type of `x`, made once."""
        key = (x.dtype, x.device)
        if key not in self._filters:
            taps = (self.up_filter, self.down_filter, self.up, self.down, self.in_size, self.padding)
            self._filters[key] = resampling(*taps, x.device, x.dtype)
        return self._filters[key]

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map feature maps `[B, in, in_size, in_size]` and `[B, w_dim]` to `[B, out, out_size, out_size]`."""
        if self.training:
            with torch.no_grad():
                mean_square = torch.linalg.vector_norm(x, dtype=torch.float32).square() / x.numel()
                self.magnitude_ema.copy_(mean_square.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        styles = self.affine(w)
        if self.is_torgb:
            styles = styles / math.sqrt(self.weight[0].numel())
        x = modulated_conv(x, self.weight, styles, self.magnitude_ema.rsqrt(), demodulate=not self.is_torgb)
        x = x + self.bias.to(x.dtype)[:, None, None]
        if self.is_torgb:
            return x.clamp(-self.conv_clamp, self.conv_clamp)
        return filtered_leaky_relu(x, self.filters(x), clamp=self.conv_clamp)


class SynthesisNetwork(nn.Module):
    """Latents W+ to images; the layer table follows the paper's section 3.2 and appendix C.1."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float = 256,
        magnitude_ema_beta: float = 0.999,
    ) -> None:
        super().__init__()
        self.num_ws, self.margin_size, self.output_scale = num_layers + 2, margin_size, output_scale
        last_cutoff = img_resolution / 2
        exponents = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
        cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** exponents
        stopbands = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** exponents
        rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, img_resolution)))).astype(int)
        half_widths = np.maximum(stopbands, rates / 2) - cutoffs
        sizes = rates + margin_size * 2
        sizes[-2:] = img_resolution
        channels = np.rint(np.minimum(channel_base / 2 / cutoffs, channel_max)).astype(int)
        channels[-1] = img_channels
        sizes, rates, channels = sizes.tolist(), rates.tolist(), channels.tolist()
        self.input = SynthesisInput(w_dim, channels[0], sizes[0], rates[0], cutoffs[0])
        self.layer_names = []
        for i in range(num_layers + 1):
            j = max(i - 1, 0)
            layer = SynthesisLayer(
                w_dim,
                is_torgb=i == num_layers,
                is_critically_sampled=i >= num_layers - num_critical,
                in_channels=channels[j],
                out_channels=channels[i],
                in_size=sizes[j],
                out_size=sizes[i],
                in_sampling_rate=rates[j],
                out_sampling_rate=rates[i],
                in_cutoff=cutoffs[j],
                out_cutoff=cutoffs[i],
                in_half_width=half_widths[j],
                out_half_width=half_widths[i],
                conv_kernel=conv_kernel,
                filter_size=filter_size,
                lrelu_upsampling=lrelu_upsampling,
                use_radial_filters=use_radial_filters,
                conv_clamp=conv_clamp,
                magnitude_ema_beta=magnitude_ema_beta,
            )
            name = f"L{i}_{sizes[i]}_{channels[i]}"
            setattr(self, name, layer)
            self.layer_names.append(name)

    def forward(self, ws: Tensor, dtype: torch.dtype = torch.float32, transform: Tensor | None = None) -> Tensor:
        """Draw images `[B, 3, S, S]`, RGB, about [-1, 1], from latents W+ `[B, num_ws, w_dim]`; layers compute in
        `dtype`.

        `transform` is the inverse of a wanted turn and shift of the picture, `[3, 3]` or `[B, 3, 3]`, in sides; without
        it the input layer's own is used.
        """
        if ws.ndim != 3 or ws.shape[1] != self.num_ws:
            raise ValueError(f"expected latents [B, {self.num_ws}, w_dim], found {list(ws.shape)}")
        first, *rest = ws.unbind(1)
        x = self.input(first, transform).to(dtype)
        for name, w in zip(self.layer_names, rest, strict=True):
            x = getattr(self, name)(x, w)
        return x.float() * self.output_scale


class Generator(nn.Module):
    """The whole generator. Further keyword arguments are those of `SynthesisNetwork`."""

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        mapping_kwargs: dict | None = None,
        **synthesis_kwargs,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.img_resolution = z_dim, w_dim, img_resolution
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """Draw images `[B, 3, S, S]`, RGB, about [-1, 1], from z `[B, z_dim]`."""
        return self.synthesis(self.mapping(z, truncation_psi, truncation_cutoff))
