"""--mode=export: the embedding of a trained run as files that need JAX, but not this package."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.export  # jax does not import it by itself
import numpy as np
from flax import traverse_util

from sreml_jax.embedder import Embedder
from sreml_jax.model.ensemble import embeddings, normalize
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError

PLATFORMS = ('cpu', 'cuda')


def export(embedder: Embedder, out: Path) -> None:
    """Writes the embedding as StableHLO, which `jax.export.deserialize` reads, and its weights beside it.

    The exported function takes the dict of weights from the file and uint8 images [batch, size, size, 3] for
    any batch. It normalizes the images and returns float32 embeddings [batch, embedder.dimensions] of unit
    length. The weights have their own file because a StableHLO file cannot exceed 2 GiB.

    Args:
      embedder: of the run.
      out: file of the function; <out>.npz gets the weights. Both are written atomically.

    Raises:
      UserError: a file cannot be written.
    """
    weights = jax.device_get(traverse_util.flatten_dict(embedder.variables, sep='/'))
    shape = jax.export.symbolic_shape(f'batch, {embedder.image_size}, {embedder.image_size}, 3')
    arguments = (
        {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()},
        jax.ShapeDtypeStruct(shape, np.uint8),
    )
    exported = jax.export.export(jax.jit(function(embedder)), platforms=PLATFORMS)(*arguments)
    beside = out.with_name(out.name + '.npz')
    advice = 'take another --out'
    # The inner file is written and moved first, so that an error names the path that the user gave.
    with (
        files.atomic_write(beside, UserError, advice) as weights_file,
        files.atomic_write(out, UserError, advice) as function_file,
    ):
        function_file.write_bytes(exported.serialize())
        with weights_file.open('wb') as file:
            np.savez(file, **weights)
    size, dimensions = embedder.image_size, embedder.dimensions
    print(
        f'{out}: uint8 images [batch, {size}, {size}, 3] -> float32 embeddings [batch, {dimensions}], '
        f'for {" and ".join(PLATFORMS)}; {beside}: its weights, {beside.stat().st_size / 1e6:,.1f} MB. '
        f'JAX {jax.__version__} wrote it: JAX promises that versions up to 6 months newer read it. '
        'To use it, with JAX only:\n'
        '    import jax.export, numpy\n'
        f'    weights = jax.device_put(dict(numpy.load({str(beside)!r})))\n'
        f'    embed = jax.export.deserialize(open({str(out)!r}, "rb").read()).call\n'
        '    embeddings = embed(weights, images)'
    )


def function(embedder: Embedder) -> Callable[[Mapping[str, jax.Array], jax.Array], jax.Array]:
    """Returns the embedding as a function of weights (path in the model -> array) and images, for any device.

    member_conv='auto' depends on the device, so it becomes 'unrolled': plain convolutions, which every
    platform has. dtype='auto' becomes float32.
    """
    run = embedder.run
    conv = 'unrolled' if run.config.member_conv == 'auto' else run.config.member_conv
    dtype = np.float32 if run.config.dtype == 'auto' else run.model.dtype
    model = run.model.clone(conv=conv, dtype=dtype)

    def embed_images(weights, images):
        variables = traverse_util.unflatten_dict(weights, sep='/')
        found = embeddings(model, variables, normalize(images, embedder.mean, embedder.std))
        return embedder.pca.traced(found, embedder.dimensions) if embedder.pca else found

    return embed_images
