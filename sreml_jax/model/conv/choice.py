"""Which algorithm runs a member convolution on which device: what 'auto' stands for.

The rules for a CPU were measured on single convolutions of 2 to 8 members, batch 12, on 2 busy cores (AVX2,
float32, jax 0.10.2): the order of the algorithms is sure where they differ much, not where they are close.
'taps' was measured in whole steps (6 members of resnet18, width 64, 48x48 images, batch 32: 1.00 s against
1.19 s
with 'matmul' in its place). No GPU was at hand: its rules follow from arithmetic (tiles that fill the chip
against patches written and read) and are NOT measured; one member is left to XLA, as any network.
`python launch/bench.py convs` measures both.
"""

# Pixels: where XLA's CPU convolution leaves its fast path, and Winograd's tiles are mostly border.
SMALL = 4


def choose(
    platform: str,
    product: str,
    members: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    groups: int,
    shared: bool,
) -> str:
    """Returns the algorithm (a key of `algorithms.ALGORITHMS`) for one product of one convolution.

    Args:
      platform: 'cpu' or 'gpu', as `jax.default_backend()` names it.
      product: 'forward', 'input_gradient' or 'kernel_gradient'.
      members: how many kernels; 1 for the trunk.
      size: height and width of the output.
      kernel: height and width of the kernel.
      groups: of channels within a member.
      shared: all members read the same images.
    """
    small = min(size) <= SMALL
    if platform == 'cpu':
        if max(kernel) > 3:
            return 'unrolled'
        return 'taps' if small or kernel != (3, 3) else 'winograd'
    # None of these is measured. Shared images are one dense convolution, to the features of all members.
    if members == 1 or (shared and groups == 1):
        return 'grouped'
    if groups > 1:
        return 'unrolled'
    # One large matrix product a member fills a GPU for big images, a batch of them for small.
    return 'matmul' if kernel == (1, 1) or min(size) <= 16 else 'unrolled'
