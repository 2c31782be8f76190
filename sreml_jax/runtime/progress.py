"""How far work on images is: a bar on a terminal, plain lines where there is none."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class ImageProgress:
    """Images done, images/s and time left.

    Args:
      total: images in all.
      first: of them done before.
    """

    def __init__(self, total: int, first: int = 0):
        self._total, self._begun = total, False
        self._shown = 0.0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=first, unit=' images', dynamic_ncols=True)

    def start_clock(self, done: int) -> None:
        """Lets only what is done from here on count in the rate: before it was mostly compilation."""
        self._start, self._first_timed, self._begun = time.monotonic(), done, True

    def show(self, done: int, text: str, line: str) -> None:
        """Shows how many images are done: `text` is put before the bar, `line` begins a line."""
        if not self._begun:
            self.start_clock(done)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
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
