"""What a member convolution is, apart from the shapes of its operands."""

from typing import NamedTuple

import jax
from jax import lax


class Geometry(NamedTuple):
    """Strides, padding, groups and precision of a convolution."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    precision: lax.PrecisionLike = None

    def output_size(self, image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the height and width of the output, from those of an image and of the kernel."""
        sizes = zip(image, kernel, self.strides, self.padding, strict=True)
        return tuple((size + sum(pad) - k) // stride + 1 for size, k, stride, pad in sizes)


def is_shared(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether all members read the same images: x lacks the member axis."""
    return x.ndim == 4
