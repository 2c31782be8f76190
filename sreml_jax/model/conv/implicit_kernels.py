"""Triton's kernels of `implicit`: products whose patches are never written to memory.

Activations are [images, height, width, members, channels] in memory, kernels [members, kh, kw, channels,
features]. A program computes one tile of one member's result; sums are float32. Names in capitals are
compile-time constants.
"""

import triton
import triton.language as tl


@triton.jit
def output(
    x, w, y, sums, squares,
    MEMBERS: tl.constexpr, IMAGES: tl.constexpr,
    IN_H: tl.constexpr, IN_W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """y from x and w: TILE_M pixels, TILE_N features; and the tile's sums of each feature and of its square.

    sums, squares: float32 [tiles of pixels, members, features]. The tile has features as rows: a thread then
    holds many pixels of few features, and sums them without the others.
    """
    tiles_n: tl.constexpr = FEATURES // TILE_N
    blocks: tl.constexpr = CHANNELS // TILE_K
    tile, m = tl.program_id(0), tl.program_id(1)
    p = tile // tiles_n * TILE_M + tl.arange(0, TILE_M)
    f = tile % tiles_n * TILE_N + tl.arange(0, TILE_N)
    k = tl.arange(0, TILE_K)
    inside = p < IMAGES * OUT_H * OUT_W
    n, top, left = p // (OUT_H * OUT_W), p // OUT_W % OUT_H * STRIDE - PAD_H, p % OUT_W * STRIDE - PAD_W
    total = tl.zeros((TILE_N, TILE_M), tl.float32)
    for step in range(0, KH * KW * blocks):
        tap, c = step // blocks, step % blocks * TILE_K + k
        row, column = top + tap // KW, left + tap % KW
        seen = inside & (row >= 0) & (row < IN_H) & (column >= 0) & (column < IN_W)
        pixel = ((n * IN_H + row) * IN_W + column) * MEMBERS + m
        a = tl.load(w + ((m * KH * KW + tap) * CHANNELS + c)[None, :] * FEATURES + f[:, None])
        b = tl.load(x + pixel[None, :] * CHANNELS + c[:, None], mask=seen[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision='ieee')
    rounded = total.to(y.dtype.element_ty)
    tl.store(y + (p * MEMBERS + m)[None, :] * FEATURES + f[:, None], rounded, mask=inside[None, :])
    # Pixels beyond the last are zero.
    wide = rounded.to(tl.float32)
    at = (tile // tiles_n * MEMBERS + m) * FEATURES + f
    tl.store(sums + at, tl.sum(wide, 1))
    tl.store(squares + at, tl.sum(wide * wide, 1))


@triton.jit
def input_gradient(
    dy, w, dx,
    MEMBERS: tl.constexpr, IMAGES: tl.constexpr,
    IN_H: tl.constexpr, IN_W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """dx from dy and w: TILE_N channels, TILE_M pixels."""
    total, n, h, v, inside, c = _gradient_tile(
        dy, w, MEMBERS, IMAGES, IN_H, IN_W, OUT_H, OUT_W, CHANNELS, FEATURES, KH, KW, STRIDE, PAD_H, PAD_W,
        TILE_M, TILE_N, TILE_K,
    )  # fmt: skip
    pixel = ((n * IN_H + h) * IN_W + v) * MEMBERS + tl.program_id(1)
    at = pixel[None, :] * CHANNELS + c[:, None]
    tl.store(dx + at, total.to(dx.dtype.element_ty), mask=inside[None, :])


@triton.jit
def relu_gradient(
    dy, w, x, factor, addend, y, other, dx, sums, products,
    MEMBERS: tl.constexpr, IMAGES: tl.constexpr,
    IN_H: tl.constexpr, IN_W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
    EVERY: tl.constexpr,
):  # fmt: skip
    """dx, the gradient of the argument of relu, whose result was convolved; and its sums as in `output`.

    The argument is x * factor + addend; products are the sums of dx * x. With a shortcut relu's result is y,
    and `other`, a gradient of each EVERY-th row and column of y, is added first. Without a shortcut EVERY is
    0, and y and other are not read.
    """
    total, n, h, v, inside, c = _gradient_tile(
        dy, w, MEMBERS, IMAGES, IN_H, IN_W, OUT_H, OUT_W, CHANNELS, FEATURES, KH, KW, STRIDE, PAD_H, PAD_W,
        TILE_M, TILE_N, TILE_K,
    )  # fmt: skip
    m = tl.program_id(1)
    at = (((n * IN_H + h) * IN_W + v) * MEMBERS + m)[None, :] * CHANNELS + c[:, None]
    # Pixels beyond the last are zero. Rounding first halves the memory by which threads exchange the tile.
    total = total.to(dx.dtype.element_ty).to(tl.float32)
    if EVERY:
        across: tl.constexpr = (IN_W + EVERY - 1) // EVERY
        down: tl.constexpr = (IN_H + EVERY - 1) // EVERY
        pixel = ((n * down + h // EVERY) * across + v // EVERY) * MEMBERS + m
        given = inside & (h % EVERY == 0) & (v % EVERY == 0)
        at_other = pixel[None, :] * CHANNELS + c[:, None]
        total += tl.load(other + at_other, mask=given[None, :], other=0.0).to(tl.float32)
        positive = tl.load(y + at, mask=inside[None, :], other=0.0) > 0
    else:
        narrow = tl.load(x + at, mask=inside[None, :], other=0.0).to(tl.float32)
        of_channel = m * CHANNELS + c
        positive = narrow * tl.load(factor + of_channel)[:, None] + tl.load(addend + of_channel)[:, None] > 0
    rounded = tl.where(positive, total, 0.0).to(dx.dtype.element_ty)
    tl.store(dx + at, rounded, mask=inside[None, :])
    wide = rounded.to(tl.float32)
    tiles_n: tl.constexpr = CHANNELS // TILE_N
    row = tl.program_id(2) * (tl.num_programs(0) // tiles_n) + tl.program_id(0) // tiles_n
    of_tile = (row * MEMBERS + m) * CHANNELS + c
    tl.store(sums + of_tile, tl.sum(wide, 1))
    # x is read only now, or again: threads that held it meanwhile would need so many registers that a
    # processor had room for one program instead of two.
    tl.debug_barrier()
    narrow = tl.load(x + at, mask=inside[None, :], other=0.0).to(tl.float32)
    tl.store(products + of_tile, tl.sum(wide * narrow, 1))


@triton.jit
def _gradient_tile(
    dy, w,
    MEMBERS: tl.constexpr, IMAGES: tl.constexpr,
    IN_H: tl.constexpr, IN_W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """The input's gradient, [TILE_N channels, TILE_M pixels]; image, row and column of the pixels, and which
    exist; the channels.

    Pixels whose row and column leave the same remainders by STRIDE (program_id 2) have the same taps: every
    STRIDE-th from the first.
    """
    tiles_n: tl.constexpr = CHANNELS // TILE_N
    blocks: tl.constexpr = FEATURES // TILE_K
    across: tl.constexpr = (IN_W + STRIDE - 1) // STRIDE
    down: tl.constexpr = (IN_H + STRIDE - 1) // STRIDE
    tile, m, remainder = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    p = tile // tiles_n * TILE_M + tl.arange(0, TILE_M)
    c = tile % tiles_n * TILE_N + tl.arange(0, TILE_N)
    k = tl.arange(0, TILE_K)
    n, h, v = p // (down * across), p // across % down * STRIDE, p % across * STRIDE
    h, v = h + remainder // STRIDE, v + remainder % STRIDE
    first_i, first_j = (remainder // STRIDE + PAD_H) % STRIDE, (remainder % STRIDE + PAD_W) % STRIDE
    top, left = (h + PAD_H - first_i) // STRIDE, (v + PAD_W - first_j) // STRIDE
    taps_j = (KW - first_j + STRIDE - 1) // STRIDE
    taps = (KH - first_i + STRIDE - 1) // STRIDE * taps_j
    inside = (n < IMAGES) & (h < IN_H) & (v < IN_W)
    if IMAGES * down * across % TILE_M + IN_H % STRIDE + IN_W % STRIDE == 0:
        inside = tl.full((TILE_M,), True, tl.int1)  # a mask that hides nothing would take registers
    total = tl.zeros((TILE_N, TILE_M), tl.float32)
    for step in range(0, taps * blocks):
        tap, f = step // blocks, step % blocks * TILE_K + k
        i, j = tap // taps_j, tap % taps_j
        row, column = top - i, left - j
        seen = inside & (row >= 0) & (row < OUT_H) & (column >= 0) & (column < OUT_W)
        pixel = ((n * OUT_H + row) * OUT_W + column) * MEMBERS + m
        kernel = (m * KH + first_i + i * STRIDE) * KW + first_j + j * STRIDE
        a = tl.load(w + (kernel * CHANNELS + c)[:, None] * FEATURES + f[None, :])
        b = tl.load(dy + pixel[None, :] * FEATURES + f[:, None], mask=seen[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision='ieee')
    return total, n, h, v, inside, c


@triton.jit
def kernel_gradient(
    x, dy, dw,
    MEMBERS: tl.constexpr, IMAGES: tl.constexpr,
    IN_H: tl.constexpr, IN_W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """dw from x and dy: TILE_M channels and TILE_N features of one tap, summed over pixels of the output."""
    tiles_n: tl.constexpr = FEATURES // TILE_N
    tiles: tl.constexpr = tiles_n * (CHANNELS // TILE_M)
    pixels: tl.constexpr = IMAGES * OUT_H * OUT_W
    tap, tile, m = tl.program_id(0) // tiles, tl.program_id(0) % tiles, tl.program_id(1)
    c = tile // tiles_n * TILE_M + tl.arange(0, TILE_M)
    f = tile % tiles_n * TILE_N + tl.arange(0, TILE_N)
    k = tl.arange(0, TILE_K)
    total = tl.zeros((TILE_M, TILE_N), tl.float32)
    for start in range(0, pixels, TILE_K):
        p = start + k
        row = p // OUT_W % OUT_H * STRIDE + tap // KW - PAD_H
        column = p % OUT_W * STRIDE + tap % KW - PAD_W
        inside = p < pixels
        seen = inside & (row >= 0) & (row < IN_H) & (column >= 0) & (column < IN_W)
        pixel = ((p // (OUT_H * OUT_W) * IN_H + row) * IN_W + column) * MEMBERS + m
        a = tl.load(x + pixel[None, :] * CHANNELS + c[:, None], mask=seen[None, :], other=0.0)
        b = tl.load(dy + (p * MEMBERS + m)[:, None] * FEATURES + f[None, :], mask=inside[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision='ieee')
    at = ((m * KH * KW + tap) * CHANNELS + c)[:, None] * FEATURES + f[None, :]
    tl.store(dw + at, total.to(dw.dtype.element_ty))
