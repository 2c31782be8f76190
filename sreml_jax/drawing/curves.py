"""Curves of the training run, drawn from metrics.jsonl."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter1d

from sreml_jax.drawing import thumbnails

NAMES = ('loss', 'accuracy', 'validation_recall')
_SHARE = 25  # the running mean covers a 25th of the curve
_INK, _LINE, _FAINT = '#5b6470', '#1f5fa8', '#b9d0ea'


class Curve(NamedTuple):
    """A scalar over the steps of a run.

    Attributes:
      name: of the scalar.
      steps: int [lines].
      values: float [lines], all finite.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The running mean, float [lines]."""
        return uniform_filter1d(self.values, max(1, len(self.values) // _SHARE), mode='nearest')

    def drawn(self) -> str:
        """Returns an SVG as a data URI: the values, faint, and their running mean above them."""
        figure = Figure(figsize=(5.2, 3.0), layout='constrained')
        axes = figure.subplots()
        axes.plot(self.steps, self.values, color=_FAINT, linewidth=1)
        axes.plot(self.steps, self.mean, color=_LINE, linewidth=2)
        axes.set_xlabel('step', color=_INK)
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axes.margins(x=0.01)
        axes.grid(axis='y', color='#e6e9ee')
        axes.set_axisbelow(True)
        axes.spines[['top', 'right', 'left']].set_visible(False)
        axes.spines['bottom'].set_color('#c9ced6')
        axes.tick_params(colors=_INK, length=0)
        file = io.BytesIO()
        figure.savefig(file, format='svg', metadata={'Date': None}, transparent=True)
        return thumbnails.data_uri(file.getvalue(), 'image/svg+xml')


def read(path: Path, names: tuple[str, ...] = NAMES) -> list[Curve]:
    """Returns the curves of a metrics.jsonl, without those that have no value; an incomplete line ends it."""
    lines = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not isinstance(line, dict) or 'step' not in line:
                break
            lines.append(line)
    curves = []
    for name in names:
        known = [(line['step'], line[name]) for line in lines if line.get(name) is not None]
        if known:
            steps, values = zip(*known, strict=True)
            curves.append(Curve(name, np.array(steps), np.array(values, float)))
    return curves
