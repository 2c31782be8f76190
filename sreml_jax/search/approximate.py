"""Neighbors in an index of many millions of images, found by FAISS without looking at all of them."""

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np

from sreml_jax.retrieval import quantization
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.exact import exact
from sreml_jax.search.index import Index

RECALL, TOP = 0.95, 10  # wanted of the approximate search: of the exact TOP nearest, this share
_SAMPLE = 200  # queries, images of the index itself, that the recall is measured on
_LEAST_A_LIST, _TRAINED_A_LIST = 39, 64  # images, as FAISS advises
_CHUNK = 2**28  # bytes of rows in memory at a time
_CANDIDATES = 4  # times as many as wanted are compared exactly


class Approximate:
    """An inverted file of 8-bit vectors beside an index, made anew where the index has changed.

    The vectors are put into about 4 sqrt(images) lists; the number of lists that a query looks into is
    doubled until the recall against exact search is RECALL on images of the index. A query whose lists hold
    too few images looks into more of them.

    Args:
      index: to search.

    Attributes:
      recall: share of the exact TOP nearest that is found, of _SAMPLE images; measured when the file was
        made, and kept beside it.
      probes, lists: how many lists a query looks into, and how many there are.

    Raises:
      UserError: FAISS is not installed.
    """

    def __init__(self, index: Index):
        self._faiss = _faiss()
        self._index = index
        path = index.folder / f'approximate-{index.about["revision"]}.faiss'
        told = path.with_suffix('.json')
        if path.exists() and told.exists():
            self._lists = self._faiss.read_index(str(path), self._faiss.IO_FLAG_MMAP)
            self.recall: float = json.loads(told.read_text())['recall']
        else:
            self._lists = self._built()
            self.recall = self._tune()
            self._save(path, told)
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
        short = (rows >= 0).sum(1) < k  # the lists looked into hold no more
        if short.any() and probes < self._lists.nlist:
            rows[short] = self._candidates(query[short], k, min(2 * probes, self._lists.nlist))
        return rows

    def _built(self):
        number, width = self._index.embeddings.shape
        lists = max(1, min(round(4 * math.sqrt(number)), number // _LEAST_A_LIST))
        built = self._faiss.index_factory(width, f'IVF{lists},SQ8', self._faiss.METRIC_INNER_PRODUCT)
        random = np.random.default_rng(0)
        built.train(self._decoded(np.sort(random.permutation(number)[: _TRAINED_A_LIST * lists])))
        chunk = max(1, _CHUNK // (4 * width))
        for start in range(0, number, chunk):
            built.add(self._decoded(np.arange(start, min(start + chunk, number))))
        return built

    def _tune(self) -> float:
        """Sets the number of lists to look into; returns the recall that it gives."""
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

    def _save(self, path: Path, told: Path) -> None:
        with files.atomic_write(path) as temporary:
            self._faiss.write_index(self._lists, str(temporary))
        with files.atomic_write(told) as temporary:
            temporary.write_text(json.dumps({'recall': self.recall, 'top': TOP, 'queries': _SAMPLE}) + '\n')
        for old in set(path.parent.glob('approximate-*')) - {path, told}:
            old.unlink()

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        return quantization.decode(self._index.embeddings[rows], self._index.scale)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise UserError('--approximate needs FAISS: pip install "sreml_jax[ann]", or leave it out') from None
    return faiss
