"""thresholds.png: false accepts and false rejects by the similarity that a match must have."""

from pathlib import Path

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from sreml_jax.runtime import files

_ACCEPTS, _REJECTS, _CHOSEN, _GRID = '#d43d3d', '#1f5fa8', '#202020', '#e6e9ee'


def save(path: Path, thresholds: np.ndarray, accepts: np.ndarray, rejects: np.ndarray, chosen: float) -> None:
    """Writes the PNG, atomically.

    Args:
      path: of the PNG.
      thresholds: float [points], similarities, ascending.
      accepts, rejects: float [points], shares of false accepts and false rejects, 0..1.
      chosen: the threshold that a search uses.
    """
    figure = Figure(figsize=(6.4, 4), layout='constrained')
    axes = figure.add_subplot(
        xlabel='least similarity of a match', ylabel='share of queries', title='What a similarity means'
    )
    axes.plot(
        thresholds, accepts, color=_ACCEPTS, label='false accepts: the class is not there, yet a match is'
    )
    axes.plot(
        thresholds, rejects, color=_REJECTS, linestyle='--', label='false rejects: its class is there, unseen'
    )
    axes.axvline(chosen, color=_CHOSEN, linewidth=1, linestyle=':', label=f'search uses {chosen:.3f}')
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    axes.set_ylim(0, 1)
    axes.grid(color=_GRID, linewidth=0.5)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, format='png', dpi=150)
