"""Your own images: DIR/train/<class>/* and DIR/test/<class>/*, or DIR/<class>/*.

Command:  python -m sreml_jax.main --config=configs/folder.py --config.data_dir=DIR
Hardware: a GPU for the seed's full model; for two CPU cores add, say, --config.ensemble_size=6
          --config.image_size=48 --config.stem=small --config.width=32 --config.batch_size=32
Yields:   depends on the images; docs/results.md has what Omniglot gave.
"""

from sreml_jax.configs import default


def get_config():
    """Returns the seed's model on a folder of images, a folder a class."""
    config = default.get_config()
    config.data_name = 'folder'
    return config
