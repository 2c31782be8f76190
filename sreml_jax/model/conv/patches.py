"""Convolutions of all members as products of patches and kernels, batched over members.

`algorithms` documents the operands.
"""

from jax import lax
from jax import numpy as jnp

from sreml_jax.model.conv.geometry import is_shared


def _patches(x, kernel, g):
    """Gathers [..., images, height, width, channels] into [..., pixels of the output, kh * kw, channels]."""
    *lead, height, width, channels = x.shape
    out = g.output_size((height, width), kernel)
    x = lax.pad(
        x, jnp.zeros((), x.dtype), [*((0, 0, 0),) * len(lead), *((*p, 0) for p in g.padding), (0, 0, 0)]
    )
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            (sh, sw), last = g.strides, (out[0] - 1, out[1] - 1)
            taps.append(x[..., i : i + last[0] * sh + 1 : sh, j : j + last[1] * sw + 1 : sw, :])
    return jnp.stack(taps, -2).reshape(*lead[:-1], lead[-1] * out[0] * out[1], len(taps), channels)


def _fold(d, x, kernel, g):
    """Transposes `_patches`: sums [..., pixels, kh * kw, channels] into the shape of x."""
    *lead, height, width, channels = x.shape
    out = g.output_size((height, width), kernel)
    d = d.reshape(*lead, *out, kernel[0] * kernel[1], channels)
    total = jnp.zeros((), d.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            edges = []
            for size, n, stride, tap, (low, _) in zip(
                (height, width), out, g.strides, (i, j), g.padding, strict=True
            ):
                start = tap - low
                edges.append((start, size - 1 - start - (n - 1) * stride, stride - 1))
            tap = d[..., i * kernel[1] + j, :]
            total += lax.pad(tap, jnp.zeros((), d.dtype), [*((0, 0, 0),) * len(lead), *edges, (0, 0, 0)])
    return total.astype(x.dtype)


def _einsum(subscripts, a, b, g):
    return jnp.einsum(subscripts, a, b, precision=g.precision, preferred_element_type=a.dtype)


def _rows(patches):
    """[..., pixels, taps, channels] -> [..., pixels, taps * channels]."""
    return patches.reshape(*patches.shape[:-2], -1)


def _kernels(w):
    """[members, kh, kw, channels, features] -> [members, kh * kw * channels, features]."""
    return w.reshape(len(w), -1, w.shape[-1])


def forward(x, w, g):
    """Returns the output, [members, images, height, width, features]."""
    m = '' if is_shared(x) else 'm'
    y = _einsum(f'{m}rk,mkf->mrf', _rows(_patches(x, w.shape[1:3], g)), _kernels(w), g)
    return y.reshape(len(w), -1, *g.output_size(x.shape[-3:-1], w.shape[1:3]), w.shape[-1])


def input_gradient(dy, w, x, g):
    """Returns the gradient of x, summed over members if x is shared."""
    m = '' if is_shared(x) else 'm'
    dy = dy.reshape(len(dy), -1, dy.shape[-1])
    return _fold(_einsum(f'mrf,mkf->{m}rk', dy, _kernels(w), g), x, w.shape[1:3], g)


def kernel_gradient(x, dy, w, g):
    """Returns the gradient of w."""
    m = '' if is_shared(x) else 'm'
    dy = dy.reshape(len(dy), -1, dy.shape[-1])
    return _einsum(f'{m}rk,mrf->mkf', _rows(_patches(x, w.shape[1:3], g)), dy, g).reshape(w.shape)
