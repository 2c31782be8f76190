"""The golden cases: PyTorch's float64 results, and the rule by which their weights and inputs are made."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.weights.torchvision import from_torch, torch_name

FOLDER = Path(__file__).parent / 'testdata'
BACKBONES = ('resnet18', 'resnet34', 'resnet50', 'resnext50_32x4d')

# Meta classes -> parameters of 48 members by backbone: the seed's counts, and ours where it has none.
SEED_TABLE = {
    12: (529_365_376, 1_011_079_808, 1_118_974_592, 1_094_093_696),
    192: (533_797_696, 1_015_512_128, 1_136_677_952, 1_111_797_056),
    500: (541_381_888, 1_023_096_320, 1_166_970_368, 1_142_089_472),
}


class Case:
    """One golden case: expected results, and the same model, weights and inputs here."""

    def __init__(self, backbone: str, weights=np.float64, dtype=None, **model):
        with np.load(FOLDER / f'golden_{backbone}.npz') as stored:
            self.expected = {name: stored[name] for name in stored}
        members, meta, batch, size = (int(self.expected[k]) for k in ('members', 'meta', 'batch', 'size'))
        self.members = members
        self.model = Ensemble(backbone, members, meta, dtype=dtype and jnp.dtype(dtype), **model)
        shapes = jax.eval_shape(lambda: self.model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
        self.variables = jax.tree_util.tree_map_with_path(
            lambda p, x: self._weights(p, x.shape, weights), shapes
        )
        images = np.random.RandomState(0).standard_normal((batch, 3, size, size)).astype(np.float32)
        self.images = images.transpose(0, 2, 3, 1).astype(weights)
        self.meta_labels = np.random.RandomState(1).randint(meta, size=(batch, members))

    def _weights(self, path, shape, dtype):
        path = tuple(k.key for k in path)[1:]
        name = torch_name(path)
        if path[0] == 'trunk':
            return from_torch(fill(name, torch_shape(shape))).astype(dtype)
        names = [f'members.{m}.{name}' for m in range(self.members)]
        return np.stack([from_torch(fill(n, torch_shape(shape[1:]))) for n in names]).astype(dtype)

    def norms(self, gradients) -> np.ndarray:
        """Norms of the gradients, in the order of expected['grad_names']."""
        found = {}
        for path, x in jax.tree_util.tree_leaves_with_path(gradients):
            path = tuple(k.key for k in path)
            if path[0] == 'trunk':
                found[torch_name(path)] = np.linalg.norm(x)
            else:
                for m in range(self.members):
                    found[f'members.{m}.{torch_name(path)}'] = np.linalg.norm(x[m])
        assert found.keys() == set(self.expected['grad_names'])
        return np.array([found[n] for n in self.expected['grad_names']])


def torch_shape(shape):
    """HWIO -> OIHW, [in, out] -> [out, in]."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def fill(name: str, shape) -> np.ndarray:
    """Values of one parameter by the rule of the golden files, float32, torch's layout."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith(('running_mean', 'bias')):
        values = random.uniform(-0.2, 0.2, shape)
    elif len(shape) == 1:
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return values.astype(np.float32)
