"""members_curve.png: Recall@1 by the number of members."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sreml_jax.runtime import files

_LINE, _GRID = '#2e9e4f', '#c8c8c8'


def save(path: Path, members: Sequence[int], mean: Sequence[float], deviation: Sequence[float]) -> None:
    """Writes the PNG, atomically.

    Args:
      path: of the PNG.
      members: how many members are used, ascending.
      mean: Recall@1, 0..1, of each number of members.
      deviation: standard deviation over random subsets, drawn as a bar.
    """
    figure = Figure(figsize=(6.4, 4), layout='constrained')
    axes = figure.add_subplot(
        xscale='log', xlabel='members', ylabel='Recall@1 (%)', title='Recall@1 by the number of members'
    )
    axes.errorbar(
        members, 100 * np.array(mean), 100 * np.array(deviation), color=_LINE, marker='o', capsize=4
    )
    axes.set_xticks(members, [str(n) for n in members])
    axes.minorticks_off()
    axes.grid(color=_GRID, linewidth=0.5)
    axes.spines[['top', 'right']].set_visible(False)
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, format='png', dpi=150)
