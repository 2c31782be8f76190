"""The search behind the page: queries that wait at the same time are answered together."""

import asyncio
import hashlib
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
from sreml_jax.search.verdict import Verdict, threshold_of

T = TypeVar('T')

ANSWER_SECONDS = 30.0  # a question that waits longer is given up
MOST = 100  # images of an answer
VOTERS = 5  # neighbors that vote on a class
_TOGETHER = 16  # queries at a time
_CHUNK = 2**26  # bytes of decoded rows of one class in memory at a time
_NAME = 'this picture'


class Answer(NamedTuple):
    """The images that were found, and what they say about the query; None if only one class was searched."""

    found: list[Match]
    verdict: Verdict | None


class _Waiting(NamedTuple):
    """A query that waits for its answer.

    Attributes:
      image: to embed, uint8 [size, size, 3], or None.
      embedding: float32 [d], or None.
      most: images to find.
      among: int [n], the rows to search; None: all.
      answer: its matches.
    """

    image: np.ndarray | None
    embedding: np.ndarray | None
    most: int
    among: np.ndarray | None
    answer: asyncio.Future


class Finder:
    """Finds the images of an index that are most like a photograph, or like one of themselves.

    One thread uses the devices and searches the index. All questions must come from one event loop.

    Args:
      embedder: of the checkpoint that made the index.
      index: to search.
      top: images to find, unless a question asks for another number.
      voters: neighbors that vote on the class of a query.
      threshold: similarity below which a match means nothing; None: as the run's --mode=eval has measured.

    Attributes:
      index, top, threshold: as above.
      classes: names of the classes of the index.

    Raises:
      UserError: another checkpoint made the index, or it holds nothing.
    """

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        top: int,
        *,
        voters: int = VOTERS,
        threshold: float | None = None,
    ):
        compatibility.refuse_other_checkpoint(index.folder, index.about, embedder.about)
        if not len(index):
            raise UserError(f'{index.folder} holds no images; add some by --mode=embed')
        self.index, self.top, self._embedder, self._voters = index, top, embedder, voters
        self.threshold = threshold_of(embedder) if threshold is None else threshold
        self.classes, self._class_of = index.classes()
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
        self._find(self._embedder.images(self._decoded(content)[None]), self._usual)

    async def like_photograph(
        self, encoded: bytes, top: int | None = None, label: str | None = None
    ) -> Answer:
        """Returns the images most like the photograph in these bytes; a copy of it has no vote.

        Args:
          encoded: content of a picture file.
          top: images to find, at most MOST; None: as many as usual.
          label: only of this class, one of `classes`; None: of all.

        Raises:
          UserError: they are no picture, or one that takes too much memory or time.
          TimeoutError: it took longer than ANSWER_SECONDS.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            image = await _in(self._decoding, self._decoded, encoded)
            found = await self._ask(image, None, top, label)
        sha256 = hashlib.sha256(encoded).hexdigest()
        return self._answer(found, [one for one in found if one.item.sha256 != sha256], top, label)

    async def like_item(self, number: int, top: int | None = None, label: str | None = None) -> Answer:
        """Returns the images most like that in row `number` of the index, which is left out itself."""
        stored = quantization.decode(self.index.embeddings[number], self.index.scale)
        embedding = stored / max(float(np.linalg.norm(stored)), 1e-12)
        async with asyncio.timeout(ANSWER_SECONDS):
            found = await self._ask(None, embedding, top, label)
        others = [one for one in found if one.row != number]
        return self._answer(others, others, top, label)

    def examples(self, number: int) -> list[int]:
        """Returns rows of the index to begin with, of different classes if its images lie in folders."""
        return np.unique(np.linspace(0, len(self.index) - 1, number).round()).astype(int).tolist()

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
                items = iter(await self.items(np.concatenate([rows for rows, _ in found])))
            except Exception as error:
                for query in waiting:
                    if not query.answer.done():  # the client may have left
                        query.answer.set_exception(error)
                continue
            for query, (rows, similarities) in zip(waiting, found, strict=True):
                answer = [
                    Match(rank, float(similarity), int(row), next(items))
                    for rank, (row, similarity) in enumerate(zip(rows, similarities, strict=True), 1)
                ]
                if not query.answer.done():
                    query.answer.set_result(answer)

    async def _ask(
        self, image: np.ndarray | None, embedding: np.ndarray | None, top: int | None, label: str | None
    ) -> list[Match]:
        """Returns the matches, itself included, and more than `top` of them."""
        self._working = self._working or asyncio.create_task(self._work())
        answer = asyncio.get_running_loop().create_future()
        among = None if label is None else np.flatnonzero(self._class_of == self.classes.index(label))
        usual = top is None or top < self._usual
        self._queue.put_nowait(_Waiting(image, embedding, self._usual if usual else MOST + 1, among, answer))
        return await answer

    def _answer(self, found: list[Match], voters: list[Match], top: int | None, label: str | None) -> Answer:
        verdict = Verdict.of(voters, self._voters, self.threshold) if label is None else None
        return Answer(found[: self.top if top is None else top], verdict)

    @property
    def _usual(self) -> int:
        """Images to find of a query; one more than are shown, since an image of the index finds itself."""
        return max(self.top, self._voters) + 1

    def _decoded(self, encoded: bytes) -> np.ndarray:
        """Returns uint8 [size, size, 3], the pixels that evaluation would see."""
        try:
            return photographs.image(encoded, _NAME, self._embedder.image_size)
        except UserError as error:
            raise UserError(str(error).removeprefix(f'{_NAME}: ')) from None

    def _find_all(self, waiting: Sequence[_Waiting]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns rows and similarities of each query."""
        embeddings = np.empty((len(waiting), self._embedder.dimensions), np.float32)
        new = [i for i, query in enumerate(waiting) if query.embedding is None]
        images = [query.image for query in waiting if query.image is not None]
        if images:
            embeddings[new] = self._embedder.images(np.stack(images))
        for i, query in enumerate(waiting):
            if query.embedding is not None:
                embeddings[i] = query.embedding
        whole = [i for i, query in enumerate(waiting) if query.among is None]
        if whole:
            rows, similarities = self._find(embeddings[whole], max(waiting[i].most for i in whole))
            of_whole = iter(zip(rows, similarities, strict=True))
        return [
            next(of_whole) if query.among is None else self._find_among(embedding, query.among, query.most)
            for embedding, query in zip(embeddings, waiting, strict=True)
        ]

    def _find(self, embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, similarities = exact(embeddings, self.index, k, self._embedder.devices)
        check_cosines(self.index, similarities)
        return rows, similarities

    def _find_among(self, embedding: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Searches some rows, on the host: classes of different sizes would each compile a program."""
        size = max(1, _CHUNK // (4 * len(embedding)))
        parts = np.split(rows, range(size, len(rows), size))
        cosines = np.concatenate(
            [quantization.decode(self.index.embeddings[p], self.index.scale) @ embedding for p in parts]
        )
        check_cosines(self.index, cosines)
        best = np.argsort(-cosines, kind='stable')[:k]
        return rows[best], cosines[best]


async def _in(threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def _small(path: str, side: int) -> tuple[bytes, str]:
    return thumbnails.encoded(Image.fromarray(decode.picture(path)), side)
