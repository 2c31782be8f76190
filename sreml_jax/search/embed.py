"""--mode=embed and --mode=remove: adds any number of photographs to an index, and takes them out."""

import collections
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from sreml_jax import headline
from sreml_jax.data import photographs
from sreml_jax.data.photographs import Pattern, Photograph
from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.progress import ImageProgress
from sreml_jax.runtime.signals import Signals
from sreml_jax.runtime.text import printable
from sreml_jax.runtime.versions import installed
from sreml_jax.search.index import Index, Item
from sreml_jax.search.index.reader import ABOUT
from sreml_jax.search.index.writer import IndexWriter

log = logging.getLogger(__name__)

_SHOWN = 20  # unreadable images, at most
_LOOKED_AT = 1000  # images at a time


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

    The index knows an image by its path and the hash of its file: if the file has changed, it is embedded
    again. Images of the index that are not among `images` stay. Memory does not depend on their number.

    Args:
      embedder: of the run.
      images: a folder, a glob or a file; see `Pattern`.
      out: folder of the index.
      storage: of quantization.CHOICES; None: that of the index, or float32 if it is new.
      vectors: whether items.parquet has a column of the embeddings; None: as the index has, or no.
      signals: a signal ends the work after the current batches; the same call goes on from there.

    Raises:
      UserError: there is nothing to embed, the index would lie among the images, or another checkpoint made
        it.
      SystemExit: a signal asked to stop.
    """
    refuse_inside(images, out)
    pattern = Pattern(images)
    number = sum(1 for _ in pattern.find())
    left_out = pattern.left_out()
    if not number:
        raise UserError(
            f'there is no picture in {printable(images)}; --images takes a folder, a glob or a file'
        )
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

            progress.say('XLA compiles the embedding', line=False)
            for items, embeddings in _embedded(embedder, _to_embed(read, index, count), signals):
                index.add(items, embeddings)
                if not counts['new']:
                    progress.start_clock(counts.total() + len(items))
                count('new', len(items))
        if not (signals and signals.received):
            if not len(index):
                raise UserError(f'no file in {printable(images)} is a picture: {_shown(index.unreadable())}')
            index.finish(versions())
    if signals:
        signals.leave(f'stopped after {counts["new"]:,} new images; the same command goes on from there')
    made = Index(out)
    print(
        f'{printable(out)}: {len(made):,} images, {counts["new"]:,} of them new, '
        f'{counts["known"]:,} known already'
    )
    if left_out:
        print(left_out)
    if unreadable := made.about['unreadable']:
        print(f'{len(unreadable):,} unreadable images are left out: {_shown(unreadable)}')


def refuse_inside(images: str, out: Path) -> None:
    """Raises UserError if the index would lie in a folder that is searched for images."""
    pattern = Pattern(images)
    if any(pattern.covers(f'{path}/') for path in {out.absolute(), out.resolve()}):
        raise UserError(
            f'--out={printable(out)} lies among --images={printable(images)}; take a folder outside'
        )


def remove(out: Path, images: str | None, gone: bool) -> None:
    """Takes images out of an index, and moves its next state into place. Embeds nothing.

    Args:
      out: folder of the index.
      images: removes the images of this folder, glob or file, which need not exist any more; None: none.
      gone: also removes the images whose files no longer exist.

    Raises:
      UserError: there is no index, `images` and `gone` name nothing, the index has no such image, or none of
        its images is there.
    """
    if not images and not gone:
        raise UserError(
            'name what to remove: --images=FOLDER_OR_GLOB, or --gone for files that no longer exist'
        )
    pattern = Pattern(images) if images else None

    if gone and (out / ABOUT).exists():
        _refuse_if_all_are_gone(Index(out))

    def unwanted(path: str) -> bool:
        return bool(pattern and pattern.matches(path)) or (gone and _is_gone(path))

    with IndexWriter(out) as index:
        log.info('%s', headline.of_removal(out, len(index), images, gone))
        unreadable = len(index.unreadable())
        number = index.remove(unwanted)
        unchanged = not number and unreadable == len(index.unreadable())
        index.finish(versions())  # which also deletes the journal
    if unchanged and not gone:
        raise UserError(
            f'{printable(out)} holds no image of --images={printable(images)}: nothing is removed'
        )
    print(f'{printable(out)}: {number:,} images removed, {len(Index(out)):,} left')


def _refuse_if_all_are_gone(index: Index) -> None:
    if not len(index):
        return
    for start in range(0, len(index), _LOOKED_AT):
        rows = range(start, min(start + _LOOKED_AT, len(index)))
        if not all(_is_gone(item.path) for item in index.items(rows)):
            return
    raise UserError(
        f'none of the {len(index):,} images of {printable(index.folder)} is there: is their drive mounted? '
        'To remove them all, name their folder by --images'
    )


def _is_gone(path: str) -> bool:
    """Whether there is certainly no such file: a folder that may not be read is no proof."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def versions() -> dict[str, str]:
    """Returns the versions of the packages that an index depends on."""
    found = installed()
    for package in ('pillow', 'tensorflow', 'tensorflow-cpu', 'pyarrow'):
        with contextlib.suppress(metadata.PackageNotFoundError):  # one of the two tensorflows is installed
            found[package] = metadata.version(package)
    return found


def _to_embed(
    read: Iterable[Photograph], index: IndexWriter, count: Callable[[str, int], None]
) -> Iterator[Photograph]:
    """Yields the new pictures; notes unreadable ones in the index. Counts all but the new ones."""
    for photograph in read:
        if photograph.problem:
            index.leave_out(photograph.path, photograph.problem)
            count('unreadable', 1)
        elif photograph.image is None:
            count('known', 1)
        else:
            yield photograph


def _embedded(
    embedder: Embedder, new: Iterable[Photograph], signals: Signals | None
) -> Iterator[tuple[list[Item], np.ndarray]]:
    """Yields the pictures with their embeddings, batch by batch, while the devices compute the next.

    A signal during the compilation for the first batch ends the program at once.
    """
    under_way = None
    while True:
        batch = list(itertools.islice(new, embedder.batch_size))
        images = [photograph.image for photograph in batch if photograph.image is not None]
        with signals.ending_at_once() if signals and not under_way else contextlib.nullcontext():
            ahead = (batch, embedder.start(np.stack(images))) if batch else None
        if under_way:
            pictures, result = under_way
            embeddings = np.asarray(result)[: len(pictures)]
            if not np.isfinite(embeddings).all():
                raise UserError('the embeddings of this checkpoint are not finite; train again')
            yield [Item(p.path, p.width, p.height, p.label, p.sha256) for p in pictures], embeddings
        if not batch:
            return
        under_way = ahead


def _shown(unreadable: dict[str, str]) -> str:
    problems = list(unreadable.values())
    more = f'; and {len(problems) - _SHOWN:,} more' if len(problems) > _SHOWN else ''
    return '; '.join(printable(problem, 300) for problem in problems[:_SHOWN]) + more
