"""The loss that training minimizes, and the accuracy that it shows."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, meta_labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy of every image and member, [batch, members], in at least float32.

    Args:
      logits: [batch, members, meta classes].
      meta_labels: int [batch, members].
      smoothing: share of the target spread evenly over all meta classes (Szegedy et al. 2016); 0: none.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, meta_labels)
    if not smoothing:
        return loss
    of_all = jax.nn.logsumexp(logits, -1) - logits.mean(-1)  # the mean loss over the meta classes
    return (1 - smoothing) * loss + smoothing * of_all


def correct(logits: jax.Array, meta_labels: jax.Array) -> jax.Array:
    """Returns bool [batch, members]: whether the largest logit is that of the meta label."""
    return logits.argmax(-1) == meta_labels
