"""What 'auto' chooses: on an H100 the faster algorithm of every measured row, on a CPU as measured there."""

import itertools

import pytest

from sreml_jax.model.conv.algorithms import ALGORITHMS
from sreml_jax.model.conv.choice import choose, prefers_implicit

PRODUCTS = ('forward', 'input_gradient', 'kernel_gradient')
# size, window, channels, features, stride -> milliseconds of 48 members on an H100, bfloat16, batch 12:
# grouped and matmul, each forward, input gradient and kernel gradient.
MEASURED = {
    (32, 3, 128, 128, 1): ((0.51, 0.50, 0.51), (1.37, 1.07, 1.36)),
    (16, 3, 256, 256, 1): ((0.44, 0.43, 1.06), (0.74, 0.59, 0.73)),
    (8, 3, 512, 512, 1): ((1.79, 1.36, 1.22), (0.48, 0.40, 0.48)),
    (16, 3, 128, 256, 2): ((1.10, 1.73, 1.42), (0.39, 0.44, 0.40)),
    (8, 3, 256, 512, 2): ((1.26, 1.22, 0.88), (0.26, 0.28, 0.26)),
    (16, 1, 128, 256, 2): ((1.48, 1.34, 2.02), (0.09, 0.16, 0.09)),
    (8, 1, 256, 512, 2): ((1.04, 1.17, 1.25), (0.08, 0.10, 0.07)),
}


def gpu(product, size, window, channels, features, stride, *, members=48, groups=1, shared=False):
    kernel = window, window, channels // groups, features
    return choose('gpu', product, members, (size, size), kernel, stride, groups, shared)


@pytest.mark.parametrize('product', PRODUCTS)
@pytest.mark.parametrize('convolution', MEASURED)
def test_a_gpu_takes_the_faster_of_what_was_measured(convolution, product):
    grouped, matmul = (times[PRODUCTS.index(product)] for times in MEASURED[convolution])
    assert gpu(product, *convolution) == ('grouped' if grouped < matmul else 'matmul')


@pytest.mark.parametrize('product', PRODUCTS)
def test_a_gpu_leaves_one_kernel_shared_images_and_groups_to_one_convolution(product):
    assert gpu(product, 8, 3, 512, 512, 1, members=1) == 'grouped'
    assert gpu(product, 8, 3, 512, 512, 1, shared=True) == 'grouped'
    assert gpu(product, 8, 3, 1024, 1024, 1, groups=32) == 'grouped'


@pytest.mark.parametrize('product', PRODUCTS)
def test_a_gpu_multiplies_1x1_kernels_without_a_stride_too(product):
    """A block's shortcut, which had a stride when it was measured, has none."""
    assert gpu(product, 16, 1, 128, 256, 1) == gpu(product, 32, 1, 128, 128, 1) == 'matmul'


def test_every_device_and_shape_has_an_algorithm():
    asked = itertools.product(
        ('cpu', 'gpu', 'tpu'), PRODUCTS, (1, 48), ((1, 1), (2, 2), (16, 16), (64, 64)),
        ((1, 1, 8, 8), (3, 3, 8, 8), (7, 7, 3, 8)), (1, 2), (1, 32), (False, True),
    )  # fmt: skip
    assert {choose(*a) for a in asked} <= set(ALGORITHMS)


@pytest.mark.parametrize(
    ('size', 'window', 'algorithm'), [(5, 3, 'winograd'), (4, 3, 'taps'), (9, 1, 'taps'), (9, 7, 'unrolled')]
)
def test_a_cpu_chooses_by_size_and_window(size, window, algorithm):
    for product, members, stride, groups, shared in itertools.product(
        PRODUCTS, (1, 4), (1, 2), (1, 4), (False, True)
    ):
        kernel = window, window, 8, 8
        assert choose('cpu', product, members, (size, size), kernel, stride, groups, shared) == algorithm


@pytest.mark.parametrize(
    ('product', 'window', 'groups', 'expected'),
    [
        ('forward', (1, 1), 1, True),
        ('input_gradient', (1, 1), 1, False),
        ('kernel_gradient', (1, 1), 1, False),
        ('input_gradient', (3, 3), 1, True),
        ('forward', (3, 3), 32, True),
        ('input_gradient', (3, 3), 32, True),
        ('kernel_gradient', (3, 3), 32, False),
    ],
)
def test_the_kernels_run_what_the_rules_say(product, window, groups, expected):
    assert prefers_implicit(product, window, groups) is expected
