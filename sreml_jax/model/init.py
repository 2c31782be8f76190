"""Draws the initial values of the ensemble on the host.

The distributions are torchvision's: convolutions normal by fan-out (He et al. 2015), classifiers uniform by
fan-in, BatchNorm 1 and 0. numpy draws each array and member from its own stream: the values do not depend on
the mesh, a device's part is drawn alone, and nothing is compiled (on a CPU, XLA takes a minute to compile
JAX's generator for all arrays of a ResNet).
"""

import functools
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.resnet import BACKBONES


def shapes(model: Ensemble) -> dict[str, Any]:
    """Returns the shapes of the ensemble's variables, {'params': ..., 'batch_stats': ...}."""
    # They depend neither on the image size nor on the algorithm: this is the cheapest to trace.
    one = model.clone(axis=None, conv='grouped', remat=False, dtype=jnp.float32)
    found = _traced(one, BACKBONES[model.model_type], jax.dtypes.canonicalize_dtype(np.float64))
    return jax.tree.map(lambda x: x, found)  # dicts that a caller may change


@functools.lru_cache(maxsize=16)
def _traced(model: Ensemble, *_: object) -> dict[str, Any]:
    """Returns the shapes; a start of the program asks for them ten times, and tracing takes a second."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def draw(shapes: Any, seed: int, shardings: Any) -> Any:
    """Draws all variables onto their devices.

    Args:
      shapes: as returned by `shapes`; leaves under 'members' have the members as first axis.
      seed: of the run; it determines the values.
      shardings: of every variable; members' arrays may be split only along their first axis.

    Returns:
      float32 arrays.
    """

    fan_in = shapes['params']['members']['fc']['kernel'].shape[1]

    def place(path, leaf, sharding):
        names = tuple(k.key for k in path)

        def part(index):
            if names[1] != 'members':
                return draw_one(names, leaf.shape, fan_in, seed)
            members = range(*index[0].indices(leaf.shape[0]))
            drawn = np.empty((len(members), *leaf.shape[1:]), np.float32)

            def fill(i):
                drawn[i] = draw_one((*names, members[i]), leaf.shape[1:], fan_in, seed)

            list(pool.map(fill, range(len(members))))
            return drawn

        return jax.make_array_from_callback(leaf.shape, sharding, part)

    with ThreadPoolExecutor() as pool:  # numpy draws without holding the interpreter
        return jax.tree_util.tree_map_with_path(place, shapes, shardings)


def draw_one(names: tuple[str | int, ...], shape: tuple[int, ...], fan_in: int, seed: int) -> np.ndarray:
    """Draws a variable of the trunk, or of the member whose number ends the names.

    Args:
      names: ('params', 'trunk', 'bn1', 'scale'), ('params', 'members', 'layer2', '0', 'conv1', 'kernel', 7).
      shape: of the variable.
      fan_in: inputs of the classifiers.
      seed: of the run.

    Returns:
      float32 `shape`.
    """
    module, variable = [n for n in names if isinstance(n, str)][-2:]
    if module != 'fc' and variable != 'kernel':  # BatchNorm
        return np.full(shape, variable in ('scale', 'var'), np.float32)
    random = np.random.default_rng((seed, zlib.crc32('/'.join(map(str, names)).encode())))
    if module == 'fc':
        return (random.uniform(-1, 1, shape) / math.sqrt(fan_in)).astype(np.float32)
    fan_out = math.prod(shape[:2]) * shape[3]
    return random.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_out))
