"""Decoding and resizing of pictures by tensorflow, for the records of a dataset and for photographs alike."""

import tensorflow as tf

tf.config.set_visible_devices([], 'GPU')  # they are JAX's

# tensorflow resizes vertically first, and holds float32 [size, width, 3] for it. A wider picture than this is
# resized on its side, so that no picture within the bounds of `decode` needs more than a square one.
_WIDE = 11_000


def decoded(encoded: tf.Tensor, box: tf.Tensor | None = None) -> tf.Tensor:
    """Decodes a plain JPEG or PNG (see `decode.opened`) to uint8 [height, width, 3], or the part in its box.

    Raises:
      tf.errors.OpError: tensorflow's decoders refuse it.
    """
    # Preparation saw that the file is whole; a missing end marker is all that can be truncated.
    as_pil = {'channels': 3, 'dct_method': 'INTEGER_ACCURATE', 'try_recover_truncated': True}

    def jpeg() -> tf.Tensor:
        if box is None:
            return tf.io.decode_jpeg(encoded, **as_pil)
        left, top, right, bottom = tf.unstack(box)
        return tf.io.decode_and_crop_jpeg(encoded, [top, left, bottom - top, right - left], **as_pil)

    def png() -> tf.Tensor:
        return cropped(tf.io.decode_png(encoded, channels=3), box)

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, png)


def cropped(picture: tf.Tensor, box: tf.Tensor | None) -> tf.Tensor:
    """Returns the part of [height, width, 3] in the box (left, top, right, bottom), or all without one."""
    if box is None:
        return picture
    left, top, right, bottom = tf.unstack(box)
    return picture[top:bottom, left:right]


def reads(encoded: bytes, width: int, height: int) -> bool:
    """Returns whether `decoded` gives a picture of this size."""
    try:
        return decoded(tf.constant(encoded)).shape == (height, width, 3)
    except tf.errors.OpError:
        return False


def resized(picture: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 [height, width, 3] to [size, size, 3], antialiased bilinear, rounded: PIL's BILINEAR."""
    height, width = tf.unstack(tf.shape(picture)[:2])

    def antialiased() -> tf.Tensor:
        return tf.image.resize(picture, (size, size), antialias=True)

    def on_its_side() -> tf.Tensor:
        turned = tf.image.resize(tf.transpose(picture, (1, 0, 2)), (size, size), antialias=True)
        return tf.transpose(turned, (1, 0, 2))

    def smaller() -> tf.Tensor:
        return tf.cond(tf.logical_and(width > _WIDE, width > height), on_its_side, antialiased)

    def larger() -> tf.Tensor:  # nothing to antialias; this takes half the time
        return tf.raw_ops.ResizeBilinear(images=picture[None], size=(size, size), half_pixel_centers=True)[0]

    pixels = tf.cond(tf.reduce_any(tf.shape(picture)[:2] > size), smaller, larger)
    return tf.cast(tf.ensure_shape(pixels, [size, size, 3]) + 0.5, tf.uint8)
