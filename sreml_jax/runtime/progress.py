"""Shows how far the work on images has come: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class ImageProgress:
    """Shows images done, images/s and time left; a narrow terminal shows these instead of the bar.

    Args:
      total: images in all.
      first: how many of them were done before.
    """

    def __init__(self, total: int, first: int = 0):
        self._total, self._begun = total, False
        self._shown = 0.0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=first, unit=' images', dynamic_ncols=True, bar_format='{bar}'
            )

    def say(self, text: str, line: bool = True) -> None:
        """Shows what is under way before the first images are done, also as a line if `line`."""
        if self._bar is not None:
            self._bar.bar_format = _plain(text)
            self._bar.refresh()
        elif line:
            print(text, flush=True)

    def start_clock(self, done: int) -> None:
        """Lets only what is done from here on count in the rate: before it was mostly compilation."""
        self._start, self._first_timed, self._begun = time.monotonic(), done, True
        if self._bar is not None:
            restart(self._bar, done)

    def show(self, done: int, text: str, line: str, more: str = '') -> None:
        """Shows how many images are done.

        Args:
          done: images.
          text, more: come before and after the numbers, on a terminal.
          line: begins a line where there is no terminal.
        """
        if not self._begun:
            self.start_clock(done)
        now = time.monotonic()
        if self._bar is not None:
            numbers = '{percentage:.0f}% {rate_noinv_fmt} {remaining} left'
            self._bar.bar_format = f'{_plain(text)} {numbers} {_plain(more)} |{{bar}}|'
            self._bar.update(done - self._bar.n)
        elif now - self._shown > LINE_SECONDS or done == self._total:
            self._shown = now
            timed = done - self._first_timed
            if timed and now > self._start:
                rate = timed / (now - self._start)
                line += f'  {rate:.1f} images/s  {tqdm.format_interval((self._total - done) / rate)} left'
            print(line, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def restart(bar: tqdm, done: int) -> None:
    """Lets the bar's rate and time left count only what is done from here on; `done` so far."""
    if not bar.disable:
        bar.n = bar.last_print_n = bar.initial = done
        bar.start_t = bar.last_print_t = bar._time()


def _plain(text: str) -> str:
    """Escapes text so that a format string shows it unchanged."""
    return text.replace('{', '{{').replace('}', '}}')
