"""The search behind the page: queries that wait at the same time are answered together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from sreml_jax.data import decode, photographs
from sreml_jax.drawing import thumbnails
from sreml_jax.embedder import Embedder
from sreml_jax.retrieval import quantization
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.exact import Match, check_cosines, exact
from sreml_jax.search.index import Index, Item, compatibility

T = TypeVar('T')

ANSWER_SECONDS = 30.0  # a question that waits longer is given up
_TOGETHER = 16  # queries at a time
_NAME = 'this picture'


class _Waiting(NamedTuple):
    """A query that waits for its answer: an image to embed, uint8 [size, size, 3], or an embedding [d]."""

    image: np.ndarray | None
    embedding: np.ndarray | None
    answer: asyncio.Future


class Finder:
    """Finds the images of an index that are most like a photograph, or like one of themselves.

    One thread uses the devices and searches the index. All questions must come from one event loop.

    Args:
      embedder: of the checkpoint that made the index.
      index: to search.
      top: images to find.

    Raises:
      UserError: another checkpoint made the index, or it holds nothing.
    """

    def __init__(self, embedder: Embedder, index: Index, top: int):
        compatibility.refuse_other_checkpoint(index.folder, index.about, embedder.about)
        if not len(index):
            raise UserError(f'{index.folder} holds no images; add some by --mode=embed')
        self.index, self._embedder, self._top = index, embedder, top
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._working: asyncio.Task | None = None  # it ends with the loop
        # Few pictures lie decoded in memory, however many clients ask. A slow picture must not block the
        # others, and thumbnails must not block uploads: each has its own pool.
        threads = max(4, machine.cores())
        self._decoding, self._thumbnails = ThreadPoolExecutor(threads), ThreadPoolExecutor(threads)
        self._searching, self._reading = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._together = min(_TOGETHER, embedder.batch_size)

    def warm_up(self) -> None:
        """Loads and compiles what the first query would wait for."""
        content, _ = thumbnails.encoded(Image.new('RGB', (8, 8)), 8)
        self._find(self._embedder.images(self._decoded(content)[None]))

    async def like_photograph(self, encoded: bytes) -> list[Match]:
        """Returns the images most like the photograph in these bytes.

        Raises:
          UserError: they are no picture, or one that takes too much memory or time.
          TimeoutError: it took longer than ANSWER_SECONDS.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            image = await _in(self._decoding, self._decoded, encoded)
            return await self._answer(image, None)

    async def like_item(self, number: int) -> list[Match]:
        """Returns the images most like that in row `number` of the index, which is left out itself."""
        stored = quantization.decode(self.index.embeddings[number], self.index.scale)
        embedding = stored / max(float(np.linalg.norm(stored)), 1e-12)
        async with asyncio.timeout(ANSWER_SECONDS):
            found = await self._answer(None, embedding)
        return [one for one in found if one.row != number][: self._top]

    async def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Returns what is known about the images in these rows of the index."""
        return await _in(self._reading, self.index.items, rows)

    async def picture(self, number: int, side: int) -> tuple[bytes, str]:
        """Returns the image in row `number`, at most `side` pixels wide and high, and its media type.

        Raises:
          UserError: its file is gone, or is no picture any more.
          TimeoutError: it took longer than ANSWER_SECONDS.
        """
        path = (await self.items([number]))[0].path
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _in(self._thumbnails, _small, path, side)

    async def _work(self) -> None:
        """Answers what waits, until it is cancelled."""
        while True:
            waiting = [await self._queue.get()]
            while len(waiting) < self._together and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            waiting = [query for query in waiting if not query.answer.done()]  # others were given up
            if not waiting:
                continue
            try:
                found = await _in(self._searching, self._find_all, waiting)
                items = iter(await self.items(found[0].reshape(-1)))
            except Exception as error:
                for query in waiting:
                    if not query.answer.done():  # the client may have left
                        query.answer.set_exception(error)
                continue
            for query, rows, similarities in zip(waiting, *found, strict=True):
                answer = [
                    Match(rank, float(similarity), int(row), next(items))
                    for rank, (row, similarity) in enumerate(zip(rows, similarities, strict=True), 1)
                ]
                if not query.answer.done():
                    query.answer.set_result(answer)

    async def _answer(self, image: np.ndarray | None, embedding: np.ndarray | None) -> list[Match]:
        self._working = self._working or asyncio.create_task(self._work())
        answer = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(image, embedding, answer))
        found = await answer
        return found if image is None else found[: self._top]

    def _decoded(self, encoded: bytes) -> np.ndarray:
        """Returns uint8 [size, size, 3], the pixels that evaluation would see."""
        try:
            return photographs.image(encoded, _NAME, self._embedder.image_size)
        except UserError as error:
            raise UserError(str(error).removeprefix(f'{_NAME}: ')) from None

    def _find_all(self, waiting: Sequence[_Waiting]) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and similarities of each query, [queries, top + 1]."""
        embeddings = np.empty((len(waiting), self._embedder.dimensions), np.float32)
        new = [i for i, query in enumerate(waiting) if query.embedding is None]
        images = [query.image for query in waiting if query.image is not None]
        if images:
            embeddings[new] = self._embedder.images(np.stack(images))
        for i, query in enumerate(waiting):
            if query.embedding is not None:
                embeddings[i] = query.embedding
        return self._find(embeddings)

    def _find(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # One more, since an image of the index finds itself.
        rows, similarities = exact(embeddings, self.index, self._top + 1, self._embedder.devices)
        check_cosines(self.index, similarities)
        return rows, similarities


async def _in(threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def _small(path: str, side: int) -> tuple[bytes, str]:
    return thumbnails.encoded(Image.fromarray(decode.picture(path)), side)
