"""Filtered leaky ReLU on a CPU: one channel plane at a time is upsampled, activated and downsampled in the cache.

A resampling matrix has a few neighbouring taps in a row, so a product with it is a weighted sum of neighbouring rows,
which compilers turn into vector instructions. Columns are treated as the rows of the transposed plane.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor

# Taps are summed in groups of this many, so that a row of sums is written once a group; filters have 6 taps a phase.
GROUP = 6


def bands(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first column of each row's band, int64 `[rows]`, and its taps, float32 `[rows, K]`.

    K is a multiple of GROUP. Raises ValueError if the matrix `[rows, columns]` has fewer columns than K.
    """
    columns = matrix.shape[1]
    hit = matrix != 0
    first = np.where(hit.any(1), hit.argmax(1), 0)
    last = np.where(hit.any(1), columns - hit[:, ::-1].argmax(1), 0)
    taps = -(-int((last - first).max()) // GROUP) * GROUP
    if taps > columns:
        raise ValueError(f"expected at least {taps} samples for a filter of {taps} taps, found {columns}")
    start = np.minimum(first, columns - taps)
    return start, np.take_along_axis(matrix, start[:, None] + np.arange(taps), 1).astype(np.float32)


@njit(fastmath=True, inline="always")
def _sum_rows(out, x, start, taps):
    """Set out[r] to the sum of taps[r, k] * x[start[r] + k] over k; out `[rows, W]`, x `[columns, W]`."""
    width = out.shape[1]
    for r in range(len(start)):
        for k in range(0, taps.shape[1], 6):
            s = start[r] + k
            t0, t1, t2 = taps[r, k], taps[r, k + 1], taps[r, k + 2]
            t3, t4, t5 = taps[r, k + 3], taps[r, k + 4], taps[r, k + 5]
            x0, x1, x2, x3, x4, x5 = x[s], x[s + 1], x[s + 2], x[s + 3], x[s + 4], x[s + 5]
            y = out[r]
            if k == 0:
                for c in range(width):
                    y[c] = t0 * x0[c] + t1 * x1[c] + t2 * x2[c] + t3 * x3[c] + t4 * x4[c] + t5 * x5[c]
            else:
                for c in range(width):
                    y[c] += t0 * x0[c] + t1 * x1[c] + t2 * x2[c] + t3 * x3[c] + t4 * x4[c] + t5 * x5[c]


@njit(fastmath=True, inline="always")
def _transpose(out, x):
    """Set out to x transposed, in tiles that stay in the first cache."""
    rows, columns = x.shape
    for top in range(0, rows, 16):
        for left in range(0, columns, 16):
            for c in range(left, min(left + 16, columns)):
                for r in range(top, min(top + 16, rows)):
                    out[c, r] = x[r, c]


@njit(fastmath=True, inline="always")
def _widen(out, x):
    """Turn bfloat16, held as uint16, into float32, whose upper half it is."""
    bits = out.view(np.uint32)
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            bits[r, c] = np.uint32(x[r, c]) << np.uint32(16)


@njit(fastmath=True, inline="always")
def _narrow(out, x):
    """Round float32 to bfloat16, to even at ties, held as uint16."""
    bits = x.view(np.uint32)
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            b = bits[r, c]
            out[r, c] = np.uint16((b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(nogil=True, cache=True, fastmath=True)
def _forward(out, x, half, up_start, up, down_start, down, gain, slope, clamp):
    planes, size = x.shape[0], x.shape[1]
    mid, small = len(up_start), len(down_start)
    plane = np.empty((size, size), np.float32)
    tall, wide = np.empty((mid, size), np.float32), np.empty((size, mid), np.float32)
    full = np.empty((mid, mid), np.float32)
    low, high = np.empty((small, mid), np.float32), np.empty((mid, small), np.float32)
    last = np.empty((small, small), np.float32)
    for p in range(planes):
        if half:
            _widen(plane, x[p])
        else:
            plane[:] = x[p]
        _sum_rows(tall, plane, up_start, up)
        _transpose(wide, tall)
        _sum_rows(full, wide, up_start, up)
        for r in range(mid):
            for c in range(mid):
                v = full[r, c]
                v = gain * max(v, slope * v)
                full[r, c] = min(max(v, -clamp), clamp)
        _sum_rows(low, full, down_start, down)
        _transpose(high, low)
        _sum_rows(last, high, down_start, down)
        if half:
            _narrow(out[p], last)
        else:
            out[p] = last


@njit(nogil=True, cache=True, fastmath=True)
def _backward(
    out, x, grad, half, up_start, up, down_start, down, upt_start, upt, downt_start, downt, gain, slope, clamp
):
    planes, size = x.shape[0], x.shape[1]
    mid, small = len(up_start), len(down_start)
    plane, small_grad = np.empty((size, size), np.float32), np.empty((small, small), np.float32)
    tall, wide = np.empty((mid, size), np.float32), np.empty((size, mid), np.float32)
    full, grads = np.empty((mid, mid), np.float32), np.empty((mid, mid), np.float32)
    low, high = np.empty((small, mid), np.float32), np.empty((mid, small), np.float32)
    for p in range(planes):
        if half:
            _widen(plane, x[p])
            _widen(small_grad, grad[p])
        else:
            plane[:] = x[p]
            small_grad[:] = grad[p]
        _sum_rows(tall, plane, up_start, up)
        _transpose(wide, tall)
        _sum_rows(full, wide, up_start, up)
        # The same way back: `full` is the transposed plane, so rows come first here.
        _sum_rows(high, small_grad, downt_start, downt)
        _transpose(low, high)
        _sum_rows(grads, low, downt_start, downt)
        for r in range(mid):
            for c in range(mid):
                v = full[r, c]
                g = gain * grads[r, c] * (np.float32(1) if v > 0 else slope)
                grads[r, c] = g if -clamp < gain * slope * v and gain * v < clamp else np.float32(0)
        _sum_rows(wide, grads, upt_start, upt)
        _transpose(tall, wide)
        _sum_rows(plane, tall, upt_start, upt)
        if half:
            _narrow(out[p], plane)
        else:
            out[p] = plane


_pool: ThreadPoolExecutor | None = None


def _each(function: Callable, planes: tuple[np.ndarray, ...], *arguments) -> None:
    """Call `function` on equal shares of the planes, in as many threads as torch uses.

    Threads of our own: a second OpenMP team beside torch's would wait in busy loops.
    """
    global _pool
    threads = min(torch.get_num_threads(), len(planes[0]))
    if threads < 2:
        function(*planes, *arguments)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor()
    shares = zip(*(np.array_split(array, threads) for array in planes), strict=True)
    for job in [_pool.submit(function, *share, *arguments) for share in shares]:
        job.result()


def _array(x: Tensor) -> np.ndarray:
    """The tensor's memory; numpy has no bfloat16, so that is seen as uint16."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


class FilteredLeakyReLU(torch.autograd.Function):
    """Upsample, leaky ReLU, clamp, downsample planes `[N, H, H]` in bfloat16 or float32; nothing is kept but x."""

    @staticmethod
    def forward(ctx, x, taps, gain, slope, clamp):
        """`taps` are the bands of the up and down matrix and of both transposed, as `bands` returns them."""
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.taps, ctx.activation = taps, (np.float32(gain), np.float32(slope), np.float32(clamp))
        small = len(taps[2])
        out = x.new_empty(len(x), small, small)
        _each(_forward, (_array(out), _array(x)), x.dtype == torch.bfloat16, *taps[:4], *ctx.activation)
        return out

    @staticmethod
    def backward(ctx, grad):
        """Gradient of x, from the activations computed anew."""
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        half = x.dtype == torch.bfloat16
        _each(_backward, (_array(out), _array(x), _array(grad.contiguous())), half, *ctx.taps, *ctx.activation)
        return out, None, None, None, None
