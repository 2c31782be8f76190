"""An index: a folder of embeddings and of the images that they describe.

    embeddings.npy   float32, float16 or int8 [images, d]; embedding = index.json's scale * the stored number
    items.parquet    a row an image, in the same order: path, width, height, class (null if unknown),
                     sha256 of the file and, on request, embedding (float32 [d])
    index.json       how many images; the checkpoint, the preprocessing and the versions that made them; what
                     could not be read; checksums of the other two files

While images are added, `unfinished.sqlite` is the journal of what is embedded. embeddings.npy grows at its
end, where no reader of the index looks. Everything else changes at once when the work is done.
"""

from sreml_jax.search.index.reader import Index, Item

__all__ = ['Index', 'Item']
