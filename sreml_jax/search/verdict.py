"""What a photograph's neighbors say about it: whether its class is known, and which class it is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sreml_jax.embedder import Embedder
from sreml_jax.retrieval import threshold_file
from sreml_jax.retrieval.vote import NO_CLASS, vote
from sreml_jax.runtime.text import printable
from sreml_jax.search.exact import Match

UNKNOWN = 'unknown'


def shown(label: str | None) -> str:
    """Returns a class as tables and sentences print it."""
    return '' if label is None else printable(label, 32)


class Verdict(NamedTuple):
    """What the neighbors say about a query.

    Attributes:
      unknown: no image of the index is similar enough for a match to mean anything; None if nobody knows how
        similar that is.
      label: the class by vote; None if no vote was asked for, or no neighbor that votes has a class.
      votes, voters: neighbors of that class, and all that voted.
    """

    unknown: bool | None
    label: str | None
    votes: int
    voters: int

    @classmethod
    def of(cls, matches: Sequence[Match], voters: int, threshold: float | None) -> 'Verdict':
        """Returns the verdict of the first `voters` matches whose similarity reaches the threshold."""
        enough = [match for match in matches if threshold is None or match.similarity >= threshold]
        unknown = None if threshold is None else not enough
        names = [match.item.label for match in enough[:voters] if match.item.label is not None]
        known = sorted(set(names))
        labels = np.array([[known.index(name) for name in names]], int).reshape(1, -1)
        similar = [match.similarity for match in enough[:voters] if match.item.label is not None]
        (winner,), (votes,) = vote(labels, np.array([similar], np.float32))
        return cls(unknown, None if winner == NO_CLASS else known[winner], int(votes), len(names))

    @property
    def sentence(self) -> str:
        """The verdict in words, '' if there is none."""
        if self.unknown:
            return UNKNOWN
        if self.label is None:
            return ''
        return f'{shown(self.label)}, by {self.votes} of {self.voters} neighbors'


def threshold_of(embedder: Embedder) -> float | None:
    """Returns the similarity below which a match means nothing; None if --mode=eval has not measured it.

    Raises:
      UserError: the run's file of thresholds is damaged.
    """
    if not embedder.trained:
        return None
    accepted = embedder.fingerprint, embedder.old_fingerprint
    config, kind = embedder.run.config, (embedder.run.config.embedding, embedder.dimensions)
    found = threshold_file.load(embedder.workdir, accepted, *kind, mirrored=config.mirrored)
    return found and found.equal.threshold
