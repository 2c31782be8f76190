"""Keeps what PIL and its C libraries say about damaged pictures off the terminal: `decode` says it itself."""

import contextlib
import ctypes
import logging
import warnings
from pathlib import Path

from PIL import Image


def silence() -> None:
    """Silences PIL's warnings and log, and libtiff's lines on stderr, for the whole process."""
    warnings.filterwarnings('ignore', module=r'PIL\.')  # DecompressionBombWarning is one of them
    logging.getLogger('PIL').setLevel(logging.CRITICAL)
    Image.preinit()
    # libtiff prints to stderr unless its handlers are taken away; PIL gives no way to do so.
    with contextlib.suppress(OSError, AttributeError):
        mapped = Path('/proc/self/maps').read_text().split()
        for library in {path for path in mapped if path.startswith('/') and 'libtiff' in path}:
            for kind in ('Error', 'Warning'):
                set_handler = ctypes.CDLL(library)[f'TIFFSet{kind}Handler']
                set_handler.restype = ctypes.c_void_p
                set_handler(None)
