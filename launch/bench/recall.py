"""The recall kernel against FAISS's flat index and against the machine's own matmul rate.

python launch/bench recall                                    5,924 x 576 and 20,000 x 2,304
python launch/bench recall --size 60502 --dim 2400 --mapped   memory-mapped, and its peak memory
python launch/bench recall --dtype bfloat16                   and the largest change in any recall
"""

import argparse
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from measure import PeakMemory, alternate, keep, positive

from sreml_jax.retrieval.blocks import similarities
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.recall import ranks, recall_at

CASES = ((5924, 576), (20_000, 2304))  # CUB's test images x 48 members x 12; as many numbers as 48 x 48
KS = (1, 2, 4, 8, 10, 20, 30, 40, 50, 100, 1000)
SOP = (60_502, 24_000)  # 48 members x 500
IMAGES_PER_CLASS = 20
MATMUL_ROWS = 4096


def main() -> None:
    """Times what the flags ask for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ', '.join(f'{size:,} x {dim:,}' for size, dim in CASES)
    p.add_argument('--size', type=positive, help=f'number of embeddings (default: {default})')
    p.add_argument('--dim', type=positive, help='dimensions of an embedding; goes with --size')
    p.add_argument('--mapped', action='store_true', help='memory-mapped from a file; no FAISS')
    dtypes = ('float32', 'bfloat16')
    p.add_argument('--dtype', choices=dtypes, default='float32', help='bfloat16 is timed beside float32')
    p.add_argument('--shuffled', action='store_true', help='images not in the order of their classes')
    p.add_argument('--chunk', type=int, help='rows of a block')
    p.add_argument('--repeats', type=positive, default=5)
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    if (args.size is None) != (args.dim is None):
        p.error('--size and --dim go together')
    cases = [(args.size, args.dim)] if args.size else CASES
    device = jax.devices()[0]
    figures = {'device': device.device_kind, 'devices': len(jax.local_devices())}
    for size, dim in cases:
        with tempfile.TemporaryDirectory() as folder:
            figures[f'{size} x {dim}'] = case = measure(size, dim, args, Path(folder))
        print(f'{size:,} x {dim:,}: ' + ', '.join(f'{k} {v}' for k, v in case.items()), flush=True)
    keep(figures, args)


def measure(size: int, dim: int, args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Times one case; seconds are medians of alternating runs."""
    x, labels = clustered(size, dim, args.dtype, args, folder / 'embeddings')
    found = {}

    def ours() -> None:
        found['ours'] = ranks(x, x, Protocol(labels, labels, same=True), chunk=args.chunk)

    with PeakMemory() as memory:
        ours()
    rows = min(size, MATMUL_ROWS)
    block = jax.device_put(np.asarray(x[:rows]))
    runs = {'ours': ours, 'matmul': lambda: similarities(block, block).block_until_ready()}
    faiss = None if args.mapped or args.dtype != 'float32' else _faiss()
    if faiss:
        index = faiss.IndexFlatIP(dim)
        index.add(x)

        def theirs() -> None:
            found['faiss'] = first_hits(index.search(x, max(KS) + 1)[1], labels)

        runs['faiss'] = theirs
    if args.dtype != 'float32':
        whole, _ = clustered(size, dim, 'float32', args, folder / 'whole')

        def of_float32() -> None:
            found['float32'] = ranks(whole, whole, Protocol(labels, labels, same=True), chunk=args.chunk)

        of_float32()
        runs['float32'] = of_float32
    runs['matmul']()
    seconds = alternate(runs, args.repeats, warmup=0)  # each has run once; FAISS compiles nothing
    flop = 2 * size**2 * dim
    rate, matmul_rate = flop / seconds['ours'], 2 * rows**2 * dim / seconds['matmul']
    recalls = {name: recall_at(r, KS) for name, r in found.items()}
    case = {
        'seconds': round(seconds['ours'], 4),
        # Of the full product; more than the matmul's own is possible, for each pair is computed once.
        'GFLOP/s': round(rate / 1e9, 1),
        'matmul GFLOP/s': round(matmul_rate / 1e9, 1),
        'of the matmul rate': round(rate / matmul_rate, 3),
        'Recall@1': recalls['ours'][1],
        'predicted seconds at SOP size': round(2 * SOP[0] ** 2 * SOP[1] / rate, 1),
    }
    if faiss:
        case['FAISS seconds'] = round(seconds['faiss'], 4)
        case['times as fast as FAISS'] = round(seconds['faiss'] / seconds['ours'], 2)
        case['equal recalls'] = recalls['ours'] == recalls['faiss']
        # Similarities closer than float32 rounds may fall the one way here and the other way there.
        case['queries ranked differently'] = int(np.sum(np.minimum(found['ours'], max(KS)) != found['faiss']))
    if 'float32' in runs:
        case['float32 seconds'] = round(seconds['float32'], 4)
        changes = [abs(recalls['ours'][k] - recalls['float32'][k]) for k in KS]
        case['largest change in any recall'] = max(changes)
    return case | memory.figures()


def clustered(
    size: int, dim: int, dtype: str, args: argparse.Namespace, file: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Draws unit-length embeddings around one random center per class, on the device.

    Returns:
      [size, dim] on the host, and int32 labels [size].
    """
    dtype = np.dtype(dtype if dtype == 'float32' else ml_dtypes.bfloat16)
    x = np.memmap(file, dtype, 'w+', shape=(size, dim)) if args.mapped else np.empty((size, dim), dtype)
    labels = np.arange(size, dtype=np.int32) // IMAGES_PER_CLASS
    if args.shuffled:
        np.random.default_rng(0).shuffle(labels)
    for start in range(0, size, 1000):
        x[start : start + 1000] = _drawn(start, labels[start : start + 1000], dim)
    return x, labels


@functools.partial(jax.jit, static_argnames='dim')
def _drawn(start: int, labels: jax.Array, dim: int) -> jax.Array:
    """Draws float32 [labels, dim], so far from the centers that some lie nearer to another class."""
    of_centers, of_rows = jax.random.split(jax.random.key(0))
    centers = jax.vmap(lambda c: jax.random.normal(jax.random.fold_in(of_centers, c), (dim,)))(labels)
    noise = jax.random.normal(jax.random.fold_in(of_rows, start), centers.shape)
    rows = centers + 0.67 * dim**0.25 * noise
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def first_hits(neighbors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the place of each query's first correct neighbor, itself left out; past the last K: none."""
    others = neighbors != np.arange(len(labels))[:, None]
    hit = others & (labels[neighbors] == labels[:, None])
    place = (np.cumsum(others, 1) - 1)[np.arange(len(hit)), hit.argmax(1)]
    return np.where(hit.any(1), np.minimum(place, max(KS)), max(KS))


def _faiss():
    """FAISS where it is installed: not on most GPU machines."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss
