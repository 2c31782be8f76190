"""How much arithmetic the ensemble is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sreml_jax.model.ensemble import Ensemble


def forward_flops(model: Ensemble, image_size: int) -> int:
    """Counts the floating-point operations of one image's forward pass, in convolutions and classifiers.

    A multiplication and an addition are two. The backward pass takes twice as many.
    """
    total = 0

    def count(call, args, kwargs, context):
        nonlocal total
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name == '__call__' and isinstance(module, (nn.Conv, nn.Dense)):
            inputs = args[0].shape[-1]
            if isinstance(module, nn.Conv):
                inputs = inputs // module.feature_group_count * int(np.prod(module.kernel_size))
            # vmap shows one member.
            times = model.members if 'members' in module.path else 1
            total += 2 * math.prod(out.shape) * inputs * times
        return out

    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(model.clone(conv='grouped', remat=False).init, jax.random.key(0), images)
    return total
