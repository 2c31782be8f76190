"""SREML: Squeezed Randomized Ensembles for Metric Learning, in JAX/Flax."""
