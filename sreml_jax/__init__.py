"""SREML: Squeezed Randomized Ensembles for Metric Learning, in JAX/Flax."""

__version__ = '0.1.0'
