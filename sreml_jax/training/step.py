"""The training step and the embedding step: pure functions of arrays, run by every device of a mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sreml_jax.model import init
from sreml_jax.model.ensemble import Ensemble, embeddings, normalize
from sreml_jax.model.weights import torchvision
from sreml_jax.runtime import sharding, xla
from sreml_jax.training.loss import correct, cross_entropy


@struct.dataclass
class TrainState:
    """Everything that training changes.

    Leaves under a key 'members' have the members as leading axis and lie on the mesh's member axis.

    Attributes:
      step: int32 []; updates done.
      params, batch_stats: of the ensemble, {'trunk': ..., 'members': ...}; float32.
      opt_state: optax's.
      kernels: the members' convolution kernels in the computation's dtype, see `narrow_kernels`. Adam's
        update writes them beside params, because to cast them would read every one again. They are not saved.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    kernels: Any = None

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {name: value for name, value in vars(self).items() if name != 'kernels'}

    @property
    def variables(self) -> dict[str, Any]:
        """What `Ensemble.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


# (state, images, labels, meta-class table) -> (state, metrics); see `make_train_step`.
TrainStep = Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def narrow_kernels(params: dict[str, Any], dtype: Any) -> dict[str, Any] | None:
    """Returns {'members': ...}, the members' convolution kernels in `dtype` and None for other parameters.

    Without a dtype narrower than float32 returns None. The trunk's kernels stay: their gradient is summed
    over the devices of 'member' in float32.
    """
    if dtype is None or jnp.dtype(dtype).itemsize >= 4:
        return None
    members = jax.tree.map(lambda x: x.astype(dtype) if x.ndim == 5 else None, params['members'])
    return {'members': members}


def _computed_with(params: dict[str, Any], kernels: dict[str, Any] | None) -> dict[str, Any]:
    """Returns params with the narrow kernels, where there are any."""
    if kernels is None:
        return params
    members = jax.tree.map(
        lambda kernel, x: x if kernel is None else kernel,
        kernels['members'],
        params['members'],
        is_leaf=lambda x: x is None,
    )
    return {**params, 'members': members}


def abstract_state(model: Ensemble, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of the training state."""
    variables = init.shapes(model)
    opt_state = jax.eval_shape(optimizer.init, variables['params'])
    step = jax.ShapeDtypeStruct((), jnp.int32)
    kernels = jax.eval_shape(lambda params: narrow_kernels(params, model.dtype), variables['params'])
    state = jax.eval_shape(
        TrainState, step, variables['params'], variables['batch_stats'], opt_state, kernels
    )
    return sharding.abstract(mesh, state)


def initial_state(
    model: Ensemble,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    weights: Mapping[str, np.ndarray] | None = None,
) -> TrainState:
    """Returns a fresh state, made where it lies: no device ever holds all members.

    weights: pretrained weights from `torchvision.read`; missing ones are drawn at random.
    """
    abstract = abstract_state(model, optimizer, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    variables = torchvision.place(weights or {}, abstract.variables, seed, shardings.variables)
    params = variables['params']
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return complete(TrainState(step, params, variables['batch_stats'], opt_state), model)


def complete(state: TrainState, model: Ensemble) -> TrainState:
    """Returns the state with its `narrow_kernels`: None if the model computes in float32 or wider."""
    cast = jax.jit(narrow_kernels, static_argnums=1)
    return dataclasses.replace(state, kernels=cast(state.params, model.dtype))


def make_train_step(
    model: Ensemble,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    label_smoothing: float = 0.0,
    skip_nonfinite: bool = False,
) -> TrainStep:
    """Returns the jitted step (state, images, labels, meta_table) -> (state, metrics).

    images: uint8 [batch, H, W, 3]; labels: int32 [batch]; meta_table: int32 [members, classes]. The state is
    donated. Results do not depend on the mesh: BatchNorm sees the whole batch, the loss is the mean over all
    images and members, with `label_smoothing` (see `loss.cross_entropy`).

    metrics: 'loss' and 'accuracy' (of members on their meta labels), float32 []; 'member_losses', float32
    [members]; 'skipped', bool []: with `skip_nonfinite`, whether the loss or a gradient was not finite. Then
    only the state's step changes.
    """
    shared = sharding.shared_axes(mesh)
    over_data, over_member = (tuple(axis for axis in shared if axis == name) for name in ('data', 'member'))
    on_device = model.clone(members=model.members // mesh.shape['member'], axis='data' if over_data else None)

    def step(state, images, labels, meta_table):
        meta_labels = meta_table[:, labels].T  # [batch, members] of this device
        batch = len(images) * mesh.shape['data']

        def loss_fn(params):
            # Mark the trunk as device-varying, so that shard_map all-reduces its gradient (small), not that
            # of its activations (large).
            own = params['trunk']
            if over_member:
                own = jax.lax.pcast(own, over_member, to='varying')
            logits, updates = on_device.apply(
                {'params': {**params, 'trunk': own}, 'batch_stats': state.batch_stats},
                normalize(images, mean, std),
                train=True,
                mutable=['batch_stats'],
            )
            losses = cross_entropy(logits, meta_labels, label_smoothing).sum(0) / batch
            hits = correct(logits, meta_labels).sum() / batch
            loss, accuracy = jax.lax.psum((losses.sum() / model.members, hits / model.members), shared)
            stats = updates['batch_stats']
            stats = {**stats, 'trunk': _first(stats['trunk'], over_member)}
            return loss, (accuracy, jax.lax.psum(losses, over_data), stats)

        # shard_map's check of varying axes inserts the sum of the trunk's gradient.
        (loss, (accuracy, losses, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            _computed_with(state.params, state.kernels)
        )
        grads = jax.tree.map(lambda gradient, x: gradient.astype(x.dtype), grads, state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        changed = optax.apply_updates(state.params, updates), batch_stats, opt_state
        skipped = jnp.zeros((), bool)
        if skip_nonfinite:
            skipped = ~(jnp.isfinite(loss) & _finite_everywhere(grads, mesh))
            kept = state.params, state.batch_stats, state.opt_state
            changed = jax.tree.map(lambda new, old: jnp.where(skipped, old, new), changed, kept)
        metrics = {'loss': loss, 'accuracy': accuracy, 'member_losses': losses, 'skipped': skipped}
        return TrainState(state.step + 1, *changed, narrow_kernels(changed[0], model.dtype)), metrics

    specs = sharding.specs(abstract_state(model, optimizer, mesh))
    arguments = (specs, sharding.IMAGES, sharding.IMAGES, sharding.META_TABLE)
    metrics = {'loss': P(), 'accuracy': P(), 'member_losses': P('member'), 'skipped': P()}
    run = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=sharding.without_idle_axes(mesh, arguments),
        out_specs=sharding.without_idle_axes(mesh, (specs, metrics)),
    )
    return jax.jit(run, donate_argnums=0, compiler_options=xla.compiler_options())


def _first(tree: Any, axes: tuple[str, ...]) -> Any:
    """Takes device 0's copy along `axes`: the copies are equal, and a mean would round."""
    if not axes:
        return tree
    is_first = jax.lax.axis_index(axes) == 0
    return jax.lax.psum(jax.tree.map(lambda x: jnp.where(is_first, x, 0), tree), axes)


def _finite_everywhere(grads: dict[str, Any], mesh: Mesh) -> jax.Array:
    """Whether all gradients on all devices are finite; they are summed over 'data' already."""
    count = {part: sum(jnp.sum(~jnp.isfinite(g)) for g in jax.tree.leaves(grads[part])) for part in grads}
    members = tuple(axis for axis in sharding.shared_axes(mesh) if axis == 'member')
    return count['trunk'] + jax.lax.psum(count['members'], members) == 0


@jax.jit
def finite_parts(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """Returns whether the trunk is finite, bool [], and whether each member is, bool [members]."""
    trunk = members = jnp.ones((), bool)
    for part in (state.params, state.batch_stats):
        for x in jax.tree.leaves(part['trunk']):
            trunk &= jnp.isfinite(x).all()
        for x in jax.tree.leaves(part['members']):
            members &= jnp.isfinite(x).all(tuple(range(1, x.ndim)))
    return trunk, members


def make_embed_step(
    model: Ensemble, mesh: Mesh, mean: np.ndarray, std: np.ndarray
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    """Returns the jitted step (variables, images) -> embeddings.

    images: uint8 [batch, H, W, 3]. Embeddings: float32 [batch, model.dimensions], of unit length.
    """
    on_device = model.clone(members=model.members // mesh.shape['member'])

    def step(variables, images):
        part = embeddings(on_device, variables, normalize(images, mean, std))
        # Each device scales by its own members.
        return part / np.sqrt(mesh.shape['member'])

    specs = sharding.specs(init.shapes(model))
    run = jax.shard_map(step, mesh=mesh, in_specs=(specs, sharding.IMAGES), out_specs=sharding.EMBEDDING)
    return jax.jit(run, compiler_options=xla.compiler_options())
