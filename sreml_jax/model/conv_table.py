"""Which way runs a member convolution on which device: what 'auto' stands for.

The rows for 'cpu' follow `python launch/bench.py convs` on 2 cores (AVX2, float32, jax 0.10.2). No GPU was at
hand: the rows for 'gpu' follow from arithmetic (tiles that fill the chip against patches written and read)
and are NOT measured; run the same command there.
"""

SMALL = (
    4  # pixels: where XLA's CPU convolution falls off its fast path, and Winograd's tiles are mostly border
)


def choose(platform: str, product: str, size: tuple[int, int], kernel: tuple[int, int], groups: int) -> str:
    """Returns the way (a key of `conv_ways.WAYS`) for one product of one convolution.

    Args:
      platform: 'cpu' or 'gpu', as `jax.default_backend()` names it.
      product: 'forward', 'input_gradient' or 'kernel_gradient'.
      size: height and width of the output.
      kernel: height and width of the kernel.
      groups: of channels within a member.
    """
    small = min(size) <= SMALL
    if platform == 'cpu':
        if groups > 1:
            return 'matmul' if small and product != 'forward' else 'unrolled'
        return 'matmul' if small or kernel != (3, 3) else 'winograd'
    # Not measured: one large matrix product a member fills a GPU for big images, a batch of them for small.
    if groups > 1:
        return 'unrolled'
    return 'matmul' if kernel == (1, 1) or min(size) <= 16 else 'unrolled'
