"""Which way runs a member convolution on which device."""


def choose(platform: str, product: str, size: tuple[int, int], kernel: tuple[int, int], groups: int) -> str:
    """Returns the way (a key of `conv_ways.WAYS`) that 'auto' takes."""
    del platform, product
    if groups > 1:
        return 'unrolled'
    return 'matmul' if kernel == (1, 1) or min(size) <= 4 else 'unrolled'
