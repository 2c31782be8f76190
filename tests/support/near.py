"""How near arrays lie to each other."""

import numpy as np


def close(found, expected, tolerance):
    """Asserts equal dtypes, and values within `tolerance` of the largest expected one."""
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == e.dtype
        f, e = np.asarray(f, np.float64), np.asarray(e, np.float64)
        np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * np.abs(e).max())
