"""Chooses the algorithm that runs a member convolution on a device: the meaning of 'auto'.

The rules for a CPU come from single convolutions of 2 to 8 members, batch 12, on 2 busy cores (AVX2, float32,
jax 0.10.2). They are certain where the algorithms differ much, not where they are close. 'taps' was measured
in whole steps (6 members of resnet18, width 64, 48x48 images, batch 32: 1.00 s, and 1.19 s with 'matmul'
instead).

The rules for a GPU were measured on an H100 on 2026-11-27: 48 members of resnet18 (layer2, 3
and 4 are the rows with 128, 256 and 512 channels), batch 12, bfloat16, milliseconds for
forward | input gradient | kernel gradient.

    convolution               pixels/channels   grouped              matmul
    3x3   128 -> 128, 32x32   8                 0.51   0.50   0.51   1.37   1.07   1.36
    3x3   256 -> 256, 16x16   1                 0.44   0.43   1.06   0.74   0.59   0.73
    3x3   512 -> 512, 8x8     1/8               1.79   1.36   1.22   0.48   0.40   0.48
    3x3/2 128 -> 256, 16x16                     1.10   1.73   1.42   0.39   0.44   0.40
    3x3/2 256 -> 512, 8x8                       1.26   1.22   0.88   0.26   0.28   0.26
    1x1/2 128 -> 256, 16x16                     1.48   1.34   2.02   0.09   0.16   0.09
    1x1/2 256 -> 512, 8x8                       1.04   1.17   1.25   0.08   0.10   0.07

'unrolled' won nowhere: one launch per member fills a fraction of the card. The rules extend these rows to
everything else, which is NOT MEASURED: other sizes and widths, 1x1 convolutions of stride 1 (a shortcut's
too: a block gives it only the pixels that it reads), float32, other batch sizes and other GPUs. Groups of
channels (ResNeXt) are NOT MEASURED either: 'grouped' is one convolution in members x groups groups; of the
candidates it moves the fewest bytes and compiles to the fewest kernels for an H100. `python launch/bench
convs` measures both kinds of device.

A Hopper GPU with jax-triton runs `implicit`, whose kernels gather patches as they multiply and sum the output
for BatchNorm. On an H200, on the same day, milliseconds of kernels (by jax.profiler) in the same setting; the
forward column of 'matmul' and 'grouped' is with XLA's pass over the output for its moments:

    convolution               implicit             matmul (1x1) or grouped
    3x3   128 -> 128, 32x32   0.33   0.36   0.27
    3x3   256 -> 256, 16x16   0.31   0.33   0.25
    3x3   512 -> 512, 8x8     0.30   0.32   0.30
    1x1   128 -> 512, 32x32   0.41                 0.90, with transposes that the step may not need
    1x1   256 -> 1024, 16x16  0.25                 0.45, likewise
    1x1   1024 -> 256, 16x16  0.17                 0.25

Of 32 groups of 8 channels, 32x32, XLA's grouped convolutions took 0.66, 0.51 and 0.38; `implicit` with blocks
of 32 channels, by the host's clock, 0.45, 0.42 and 0.73 with pixels as rows of a tile, and 0.70 forward with
features as rows, of which 32 are too few. NOT MEASURED: blocks of 64; input gradients with channels as rows,
as they are now (the table's had pixels); the trunk's images, which a kernel takes forward as those of one
member with all features; the input gradients of `relu_conv`; and what the rules extend these rows to.
"""

import math

# Pixels of a side up to which XLA's CPU convolution leaves its fast path, and Winograd's tiles are mostly
# border.
SMALL = 4

# On a GPU: the fewest pixels of the output for each channel of the input at which 'grouped' wins.
GROUPED_FROM = {'forward': 1, 'input_gradient': 1, 'kernel_gradient': 2}


def choose(
    platform: str,
    product: str,
    members: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int,
    groups: int,
    shared: bool,
) -> str:
    """Returns the algorithm (a key of `algorithms.ALGORITHMS`) for one product of one convolution.

    Args:
      platform: 'cpu' or 'gpu', as `jax.default_backend()` names it.
      product: 'forward', 'input_gradient' or 'kernel_gradient'.
      members: number of kernels; 1 for the trunk.
      size: height and width of the output.
      kernel: height and width of the kernel, channels / groups, and features.
      stride: of height and width.
      groups: of channels within a member.
      shared: whether all members read the same images.
    """
    window = kernel[:2]
    if platform == 'cpu':
        if max(window) > 3:
            return 'unrolled'
        return 'taps' if min(size) <= SMALL or window != (3, 3) else 'winograd'
    # XLA runs one member as it runs any network. Shared images make one dense convolution.
    if members == 1 or groups > 1 or shared:
        return 'grouped'
    if window == (1, 1) or stride > 1:
        return 'matmul'
    return 'grouped' if math.prod(size) >= GROUPED_FROM[product] * kernel[2] else 'matmul'


def prefers_implicit(product: str, window: tuple[int, ...], groups: int) -> bool:
    """Whether `implicit` runs this product wherever it can; see `choose` for the arguments.

    The input gradients of `relu_conv`, which do more, are `implicit`'s in any case.
    """
    if groups > 1:
        return product != 'kernel_gradient'
    return window != (1, 1) or product == 'forward'
