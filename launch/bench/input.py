"""The input pipeline on real photographs against a plain PIL loop in as many processes as cores.

python launch/bench input                    the maintainers' ../shared/data/cub100.tar, to 256x256
python launch/bench input --images FOLDER    any folder or tar of pictures

Every run hands batches of uint8 arrays to this process. 'pil' is the loop that anyone would write: open,
convert, resize, to array, stack; in 'pil, kept there' its workers do the same and send nothing back.
"""

import argparse
import multiprocessing
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from measure import alternate, keep, positive
from PIL import Image

from sreml_jax.runtime import machine

CUB100 = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'cub100.tar'
SUFFIXES = ('.jpg', '.jpeg', '.png')


def main() -> None:
    """Measures images/s of the four loaders in turn and prints the ratios to the PIL loop."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', default=str(CUB100), help='a folder or tar of pictures')
    p.add_argument('--number', type=int, default=2400, help='how many of them at most')
    p.add_argument('--image_size', type=int, default=256)
    p.add_argument('--batch_size', type=int, default=12)
    p.add_argument('--repeats', type=positive, default=5)
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context('spawn').Pool(machine.cores()) as pool,
    ):
        paths = find(Path(args.images), Path(folder))
        paths = paths[:: -(-len(paths) // args.number)]
        tasks = [
            (paths[i : i + args.batch_size], args.image_size) for i in range(0, len(paths), args.batch_size)
        ]
        uncached, cached = ours(paths, args, Path(folder) / 'prepared')
        seconds = alternate(
            {
                'uncached': uncached,
                'pil': lambda: drain(pool.imap(load, tasks)),
                'cached': cached,
                'pil, kept there': lambda: drain(pool.imap(load_only, tasks)),
            },
            args.repeats,
        )
    rates = {name: len(paths) / s for name, s in seconds.items()}
    for name, rate in rates.items():
        print(f'{name:16} {rate:9,.0f} images/s  {rate / rates["pil"]:6.2f} x pil')
    keep({'images': len(paths), 'cores': machine.cores(), 'images/s': rates}, args)


def find(images: Path, folder: Path) -> list[Path]:
    """Returns the pictures in a folder or tar, which is unpacked into `folder`."""
    if images.is_file():
        with tarfile.open(images) as tar:
            tar.extractall(folder / 'images', filter='data')
        images = folder / 'images'
    return sorted(path.resolve() for path in images.rglob('*') if path.suffix.lower() in SUFFIXES)


def load(task: tuple[list[Path], int]) -> np.ndarray:
    """The PIL loop over one batch."""
    paths, size = task
    return np.stack(
        [
            np.asarray(Image.open(p).convert('RGB').resize((size, size), Image.Resampling.BILINEAR))
            for p in paths
        ]
    )


def load_only(task: tuple[list[Path], int]) -> None:
    """`load` without the way back."""
    load(task)


def ours(paths: list[Path], args: argparse.Namespace, prepared_dir: Path) -> Iterator[Callable[[], None]]:
    """Prepares the pictures; yields a pass over all of them from the records, and one from memory."""
    from sreml_jax.configs import default
    from sreml_jax.data.pipeline import TfdsDataset
    from sreml_jax.data.sources.builder import Example, RetrievalBuilder

    class Photographs(RetrievalBuilder):
        def find_examples(self, source: Path) -> dict[str, list[Example]]:
            return {'train': [Example(path, 'all') for path in paths], 'test': [Example(paths[0], 'all')]}

    config = default.get_config()
    config.update(prepared_dir=str(prepared_dir), image_size=args.image_size)
    builder = Photographs(Path(args.images), config)
    builder.prepare()
    order = np.random.default_rng(0).permutation(len(paths))
    for config.cache in ('off', 'on'):
        dataset = TfdsDataset(builder, config)
        yield lambda dataset=dataset: drain(dataset.images('train', order, args.batch_size))


def drain(batches: Iterable) -> None:
    """Takes all batches."""
    for _ in batches:
        pass
