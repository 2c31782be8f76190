"""The import of tensorflow, quiet and as small as it can be."""

import os

from sreml_jax.runtime.imports import import_without


def import_tensorflow() -> None:
    """Imports tensorflow without keras, which nothing here uses and which takes two seconds more."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # silences its start-up messages
    # On some processors tensorflow advertises oneDNN at every log level; nothing here uses it.
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    import_without('keras', 'tensorflow')
