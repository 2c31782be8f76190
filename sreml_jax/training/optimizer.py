"""optax Adam and its learning-rate schedules."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sreml_jax.runtime.errors import UserError

SCHEDULES = ('step', 'cosine', 'constant')


def schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step (0 before the first update).

    'step' multiplies by `schedule_factor` after each share of the epochs in `schedule_steps`. It counts whole
    epochs, as torch's MultiStepLR does, or steps if two drops would fall on one epoch or one on the start.
    'cosine' falls to 0 over the run. Warm-up multiplies any of them by a factor that rises linearly to 1 over
    `warmup_epochs`.
    """
    total = config.num_epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total:
        raise UserError(
            f'warmup_epochs={config.warmup_epochs} must be less than num_epochs={config.num_epochs}'
        )
    if config.schedule == 'step':
        shares = config.schedule_steps
        steps = [int(config.num_epochs * share) * steps_per_epoch for share in shares]
        if len({*steps}) < len({*shares}) or (0 in steps and 0 not in shares):
            steps = [int(total * share) for share in shares]  # in a short run, epochs are too coarse
        factors: dict[int, float] = {}
        for step in steps:
            factors[step] = factors.get(step, 1.0) * config.schedule_factor
        rate = optax.piecewise_constant_schedule(config.learning_rate * factors.pop(0, 1.0), factors)
    elif config.schedule == 'cosine':
        rate = optax.cosine_decay_schedule(config.learning_rate, total)
    else:
        rate = optax.constant_schedule(config.learning_rate)
    if not warmup:
        return rate
    return lambda step: rate(step) * jnp.minimum(1.0, (step + 1) / warmup)


def adam(rate: optax.Schedule) -> optax.GradientTransformation:
    """Adam as torch and the seed run it: betas 0.9 and 0.999, epsilon 1e-8, no weight decay."""
    return optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)
