"""The training step and the embedding step: pure functions of arrays, run by every device of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sreml_jax import mesh as meshes
from sreml_jax.learning import objective
from sreml_jax.model.ensemble import Ensemble, embed, normalise


@struct.dataclass
class TrainState:
    """Everything that training changes.

    Leaves under a key 'members' have the members as leading axis and lie on the mesh's member axis.

    Attributes:
      step: int32 []; updates done.
      params, batch_stats: of the ensemble, {'trunk': ..., 'members': ...}; float32.
      opt_state: optax's.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `Ensemble.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def initial_state(model: Ensemble, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Returns a fresh state, a function of the seed alone; under `jax.eval_shape`, its shapes."""
    # Kernels do not depend on the images' size: the smallest that every stage accepts will do.
    images = jnp.zeros((1, 32, 32, 3))
    # 'grouped' is the quickest to trace; initial values do not depend on it.
    variables = model.clone(axis=None, conv='grouped').init(jax.random.key(seed), images)
    params = variables['params']
    return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'], optimizer.init(params))


def sharded_state(
    model: Ensemble, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """Returns `initial_state` made where it will lie: no device ever holds all members."""
    make = lambda: initial_state(model, optimizer, seed)  # noqa: E731
    return jax.jit(make, out_shardings=meshes.shardings(mesh, jax.eval_shape(make)))()


def make_train_step(
    model: Ensemble, optimizer: optax.GradientTransformation, mesh: Mesh, mean: np.ndarray, std: np.ndarray
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted step (state, images, labels, meta_table) -> (state, metrics).

    images: uint8 [batch, H, W, 3]; labels: int32 [batch]; meta_table: int32 [members, classes]; metrics:
    'loss' and 'accuracy' (of members on their meta labels), float32 []. The state is donated. Results do not
    depend on the mesh: BatchNorm sees the whole batch, the loss is the mean over all images and members.
    """
    on_device = model.clone(members=model.members // mesh.shape['member'], axis='data')

    def step(state, images, labels, meta_table):
        meta_labels = meta_table[:, labels].T  # [batch, members] of this device
        count = meta_labels.size * mesh.size

        def loss_fn(params):
            logits, updates = on_device.apply(
                {'params': params, 'batch_stats': state.batch_stats},
                normalise(images, mean, std),
                train=True,
                mutable=['batch_stats'],
            )
            losses = objective.cross_entropy(logits, meta_labels)
            correct = objective.correct(logits, meta_labels)
            loss, accuracy = jax.lax.psum((losses.sum() / count, correct.sum() / count), ('data', 'member'))
            return loss, (accuracy, updates['batch_stats'])

        # shard_map's check of what varies over which axis puts in the sum of the trunk's gradient.
        (loss, (accuracy, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), {
            'loss': loss,
            'accuracy': accuracy,
        }

    abstract = jax.eval_shape(lambda: initial_state(model, optimizer, 0))
    specs = meshes.specs(abstract)
    run = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, meshes.IMAGES, meshes.IMAGES, meshes.META_TABLE),
        out_specs=(specs, P()),
    )
    return jax.jit(run, donate_argnums=0)


def make_embed_step(
    model: Ensemble, mesh: Mesh, mean: np.ndarray, std: np.ndarray
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    """Returns the jitted step (variables, images) -> embeddings.

    images: uint8 [batch, H, W, 3]. Embeddings: float32 [batch, members * meta classes], rows of unit length.
    """
    on_device = model.clone(members=model.members // mesh.shape['member'])

    def step(variables, images):
        part = embed(on_device.apply(variables, normalise(images, mean, std)))
        # Each device scaled by its own members.
        return part / np.sqrt(mesh.shape['member'])

    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    run = jax.shard_map(
        step, mesh=mesh, in_specs=(meshes.specs(abstract), meshes.IMAGES), out_specs=meshes.EMBEDDING
    )
    return jax.jit(run)
