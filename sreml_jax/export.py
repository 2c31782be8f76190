"""--mode=export: the embedding of a trained run as one file that JAX alone can run, without this code."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import jax
import jax.export  # jax does not import it by itself
import numpy as np

from sreml_jax.embedder import Embedder
from sreml_jax.errors import UserError
from sreml_jax.model.ensemble import embed, normalise

PLATFORMS = ('cpu', 'cuda')
LARGEST = 2**31 - 2**24  # bytes of weights: the file is a flatbuffer, which ends at 2 GiB


def export(embedder: Embedder, out: Path) -> None:
    """Writes the embedding as StableHLO: what `jax.export.deserialize` reads and runs.

    Its one argument are uint8 images [batch, size, size, 3] of any batch, its result are float32 embeddings
    [batch, members * meta classes] of unit length. Normalisation and weights are inside.

    Args:
      embedder: of the run.
      out: the file; it is moved into place when whole.

    Raises:
      UserError: the weights are too many for one file, or it can not be written.
    """
    weights = sum(x.nbytes for x in jax.tree.leaves(embedder.variables))
    if weights > LARGEST:
        raise UserError(
            f'the weights take {weights / 2**30:.1f} GiB, and an exported file holds less than 2; export a '
            'run of fewer members'
        )
    shape = jax.export.symbolic_shape(f'batch, {embedder.image_size}, {embedder.image_size}, 3')
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    exported = jax.export.export(jax.jit(function(embedder)), platforms=PLATFORMS)(images)
    temporary = out.with_name(out.name + '.tmp')
    try:
        temporary.write_bytes(exported.serialize())
        temporary.replace(out)
    except OSError as error:
        raise UserError(f'{out} can not be written ({error.strerror}); take another --out') from error
    finally:
        temporary.unlink(missing_ok=True)
    size, dimensions = embedder.image_size, embedder.dimensions
    print(
        f'{out}: uint8 images [batch, {size}, {size}, 3] -> float32 embeddings [batch, {dimensions}], '
        f'for {" and ".join(PLATFORMS)}; {out.stat().st_size / 1e6:,.1f} MB. Where JAX is:\n'
        '    import jax.export\n'
        f'    embed = jax.export.deserialize(open({str(out)!r}, "rb").read()).call'
    )


def function(embedder: Embedder) -> Callable[[jax.Array], jax.Array]:
    """Returns the embedding as a function of images alone, for any device.

    Member convolutions that are left to 'auto', a choice for one device, run one by one: plain convolutions,
    which every platform has. dtype='auto' is float32.
    """
    run, about = embedder.run, embedder.about['preprocessing']
    conv = 'unrolled' if run.config.member_conv == 'auto' else run.config.member_conv
    dtype = np.float32 if run.config.dtype == 'auto' else run.model.dtype
    model = run.model.clone(conv=conv, dtype=dtype)
    variables = jax.device_get(embedder.variables)
    mean, std = (np.asarray(about[name], np.float32) for name in ('mean', 'std'))

    def embed_images(images):
        return embed(cast(jax.Array, model.apply(variables, normalise(images, mean, std))))

    return embed_images
