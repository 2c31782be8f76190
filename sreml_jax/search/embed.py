"""--mode=embed: any number of a user's photographs into an index, and out of it."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from sreml_jax.data import photographs
from sreml_jax.data.photographs import Pattern, Photograph
from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.progress import ImageProgress
from sreml_jax.runtime.signals import Signals
from sreml_jax.runtime.versions import installed
from sreml_jax.search.index import Index, Item
from sreml_jax.search.index.writer import IndexWriter

_SHOWN = 20  # unreadable images at most


def embed(
    embedder: Embedder,
    images: str,
    out: Path,
    *,
    storage: str | None = None,
    vectors: bool | None = None,
    signals: Signals | None = None,
) -> None:
    """Embeds the images that the index does not hold yet, and moves its next state into place.

    An image is known by its path and the hash of its file: one whose file has changed is embedded anew. What
    is in the index but not among `images` stays. Memory does not depend on the number of images.

    Args:
      embedder: of the run.
      images: a folder, a glob or a file; see `Pattern`.
      out: folder of the index.
      storage: of index.storage.CHOICES; None: float32, or as the index is.
      vectors: whether items.parquet has a column of the embeddings; None: no, or as the index is.
      signals: one that is received ends the work after what is begun; the same call goes on from there.

    Raises:
      UserError: there is nothing to embed, or the index is of another checkpoint.
      SystemExit: a signal asked to stop.
    """
    pattern = Pattern(images)
    number = sum(1 for _ in pattern.find())
    if not number:
        raise UserError(f'there is no picture in {images}; --images takes a folder, a glob or a file')
    held = signals.held() if signals else contextlib.nullcontext()
    with held, IndexWriter(out, {**embedder.about, 'storage': storage, 'vectors': vectors}) as index:
        index.forget_unreadable(pattern.covers)  # they are tried again
        found = itertools.takewhile(lambda _: not (signals and signals.received), pattern.find())
        files = ((file, index.sha256(file.path)) for file in found)
        read = photographs.read(files, embedder.image_size)
        counts: collections.Counter[str] = collections.Counter()
        with contextlib.closing(ImageProgress(number)) as progress:

            def count(kind: str, images: int) -> None:
                counts[kind] += images
                done = counts.total()
                progress.show(done, 'embedding', f'embedding: {done:,} of {number:,} images')

            for items, embeddings in _embedded(embedder, _to_embed(read, index, count)):
                index.add(items, embeddings)
                if not counts['new']:
                    progress.start_clock(counts.total() + len(items))
                count('new', len(items))
        if not (signals and signals.received):
            if not len(index):
                raise UserError(f'no file in {images} is a picture: {_shown(index.unreadable())}')
            index.finish(versions())
    if signals:
        signals.leave(f'stopped; the same command goes on after the {counts["new"]:,} images of this time')
    print(f'{out}: {len(Index(out)):,} images, {counts["new"]:,} of them new, {counts["known"]:,} met again')
    if unreadable := Index(out).about['unreadable']:
        print(f'{len(unreadable):,} unreadable images are left out: {_shown(unreadable)}')


def remove(out: Path, images: str | None, gone: bool) -> None:
    """Takes images out of an index, and moves its next state into place. Nothing is embedded.

    Args:
      out: folder of the index.
      images: those of this folder, glob or file, whether the files are there or not; None: none.
      gone: also those whose files are not there any more.

    Raises:
      UserError: there is no index, or nothing to remove is named, or nothing of that name is in it.
    """
    if not images and not gone:
        raise UserError(
            'name what to remove: --images=FOLDER_OR_GLOB, or --gone for files that are not there'
        )
    pattern = Pattern(images) if images else None

    def unwanted(path: str) -> bool:
        return bool(pattern and pattern.matches(path)) or (gone and not Path(path).exists())

    with IndexWriter(out) as index:
        unreadable = len(index.unreadable())
        number = index.remove(unwanted)
        unchanged = not number and unreadable == len(index.unreadable())
        index.finish(versions())  # leaves no journal behind, whatever was removed
    if unchanged and not gone:
        raise UserError(f'{out} holds no image of --images={images}: nothing is removed')
    print(f'{out}: {number:,} images removed, {len(Index(out)):,} left')


def versions() -> dict[str, str]:
    """Returns what an index is made with."""
    found = installed()
    for package in ('pillow', 'tensorflow', 'tensorflow-cpu', 'pyarrow'):
        with contextlib.suppress(metadata.PackageNotFoundError):  # there is one tensorflow or the other
            found[package] = metadata.version(package)
    return found


def _to_embed(
    read: Iterable[Photograph], index: IndexWriter, count: Callable[[str, int], None]
) -> Iterator[Photograph]:
    """Yields the pictures that are new; tells the index of those that are none. Counts all others."""
    for photograph in read:
        if photograph.problem:
            index.leave_out(photograph.path, photograph.problem)
            count('unreadable', 1)
        elif photograph.image is None:
            count('known', 1)
        else:
            yield photograph


def _embedded(embedder: Embedder, new: Iterable[Photograph]) -> Iterator[tuple[list[Item], np.ndarray]]:
    """Yields the pictures with their embeddings, a batch at a time; the next one is under way meanwhile."""
    under_way = None
    while True:
        batch = list(itertools.islice(new, embedder.batch_size))
        images = [photograph.image for photograph in batch if photograph.image is not None]
        ahead = (batch, embedder.start(np.stack(images))) if batch else None
        if under_way:
            pictures, result = under_way
            embeddings = np.asarray(result)[: len(pictures)]
            if not np.isfinite(embeddings).all():
                raise UserError('this checkpoint makes embeddings that are not finite; train again')
            yield [Item(p.path, p.width, p.height, p.label, p.sha256) for p in pictures], embeddings
        if not batch:
            return
        under_way = ahead


def _shown(unreadable: dict[str, str]) -> str:
    problems = list(unreadable.values())
    more = f'; and {len(problems) - _SHOWN:,} more' if len(problems) > _SHOWN else ''
    return '; '.join(problems[:_SHOWN]) + more
