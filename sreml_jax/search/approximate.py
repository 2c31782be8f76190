"""Approximate nearest neighbors by FAISS, for indexes of many millions of images."""

import json
import logging
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sreml_jax import memory
from sreml_jax.retrieval import quantization
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import RunError, UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.exact import exact
from sreml_jax.search.index import Index

log = logging.getLogger(__name__)

RECALL, TOP = 0.95, 10  # the approximate search is to find this share of the exact TOP nearest
_SAMPLE = 200  # images of the index, the queries that measure the recall
_LEAST_A_LIST, _TRAINED_A_LIST = 39, 64  # images, as FAISS advises
_CHUNK = 2**28  # bytes of decoded rows in memory at a time
_CANDIDATES = 4  # images compared exactly for each one that is wanted


class Approximate:
    """An inverted file of 8-bit vectors in the folder of an index; it is rebuilt when the index changes.

    It has about 4 sqrt(images) lists. The number of lists that a query searches is doubled until the recall
    against exact search is RECALL on images of the index. A query whose lists hold too few images searches
    more of them.

    Args:
      index: to search.

    Attributes:
      recall: share of the exact TOP nearest that it finds, over _SAMPLE images; measured when the file was
        built, and stored beside it.
      probes, lists: how many lists a query searches, and how many there are.

    Raises:
      UserError: FAISS is not installed, or the index is damaged.
    """

    def __init__(self, index: Index):
        self._faiss = _faiss()
        self._index = index
        path = index.folder / f'approximate-{index.about["revision"]}.faiss'
        measured = path.with_suffix('.json')
        try:
            self._lists, self.recall = self._read(path, measured)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError):  # missing, or damaged
            self._lists = self._built()
            self.recall = self._tune()
            self._save(path, measured)
        self.probes, self.lists = self._lists.nprobe, self._lists.nlist

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds about the k nearest images of the index; `exact.exact` explains arguments and results."""
        k = min(k, len(self._index))
        candidates = self._candidates(np.ascontiguousarray(query, np.float32), k, self._lists.nprobe)
        rows = np.zeros((len(query), k), np.int32)
        similarities = np.full((len(query), k), -np.inf, np.float32)
        for i, found in enumerate(candidates):
            found = np.sort(found[found >= 0])
            cosines = self._decoded(found) @ query[i]
            best = np.argsort(-cosines, kind='stable')[:k]
            rows[i, : len(best)], similarities[i, : len(best)] = found[best], cosines[best]
        return rows, similarities

    def _candidates(self, query: np.ndarray, k: int, probes: int) -> np.ndarray:
        """Returns rows of at least k images, those before the first -1; [queries, about _CANDIDATES * k]."""
        settings = self._faiss.SearchParametersIVF(nprobe=probes)
        _, rows = self._lists.search(query, _CANDIDATES * k, params=settings)
        short = (rows >= 0).sum(1) < k  # the lists searched hold no more
        if short.any() and probes < self._lists.nlist:
            rows[short] = self._candidates(query[short], k, min(2 * probes, self._lists.nlist))
        return rows

    def _read(self, path: Path, measured: Path) -> tuple[Any, float]:
        recall = float(json.loads(measured.read_text())['recall'])
        lists = self._faiss.read_index(str(path), self._faiss.IO_FLAG_MMAP)
        if (lists.ntotal, lists.d) != self._index.embeddings.shape:
            raise ValueError('of another index')
        return lists, recall

    def _built(self):
        number, width = self._index.embeddings.shape
        lists = max(1, min(round(4 * math.sqrt(number)), number // _LEAST_A_LIST))
        trained_on = min(number, _TRAINED_A_LIST * lists)
        # A row is kept as a byte a dimension, and its number.
        needs = {'its lists': number * (width + 8), 'rows to learn from': 4 * trained_on * width}
        memory.refuse_on_host(
            'making the approximate search',
            {kind: size for kind, size in needs.items() if size == max(needs.values())},
            f'leave out --approximate, or embed into another index by a config.embedding_dim under {width:,}',
        )
        built = self._faiss.index_factory(width, f'IVF{lists},SQ8', self._faiss.METRIC_INNER_PRODUCT)
        random = np.random.default_rng(0)
        built.train(self._decoded(np.sort(random.permutation(number)[:trained_on])))
        chunk = max(1, _CHUNK // (4 * width))
        for start in range(0, number, chunk):
            built.add(self._decoded(np.arange(start, min(start + chunk, number))))
        return built

    def _tune(self) -> float:
        """Sets the number of lists to search; returns the recall."""
        random = np.random.default_rng(1)
        query = self._decoded(np.sort(random.permutation(len(self._index))[:_SAMPLE]))
        found_exactly, _ = exact(query, self._index, TOP)
        self._lists.nprobe = 1
        while True:
            found, _ = self.search(query, TOP)
            recall = np.mean([np.isin(e, f).mean() for e, f in zip(found_exactly, found, strict=True)])
            if recall >= RECALL or self._lists.nprobe >= self._lists.nlist:
                return float(recall)
            self._lists.nprobe = min(2 * self._lists.nprobe, self._lists.nlist)

    def _save(self, path: Path, measured: Path) -> None:
        try:
            with files.atomic_write(path) as temporary:
                self._faiss.write_index(self._lists, str(temporary))
                # FAISS says nothing of a full disk.
                self._faiss.read_index(str(temporary), self._faiss.IO_FLAG_MMAP)
            text = json.dumps({'recall': self.recall, 'top': TOP, 'queries': _SAMPLE})
            with files.atomic_write(measured) as temporary:
                temporary.write_text(text + '\n')
        except (RunError, RuntimeError) as error:  # FAISS raises the latter
            why = printable(str(error).splitlines()[0], 200)
            log.warning('the lists of --approximate are not kept: %s; the next search makes them again', why)
            return
        for old in set(path.parent.glob('approximate-*')) - {path, measured}:
            old.unlink()

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        return quantization.decode(self._index.embeddings[rows], self._index.scale)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise UserError(
            '--approximate needs FAISS: pip install "sreml_jax[ann]", or leave out the flag'
        ) from None
    return faiss
