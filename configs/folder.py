"""Your own photographs: DIR/train/<class>/* and DIR/test/<class>/*, or DIR/<class>/*.

Command:  python -m sreml_jax.main --config=configs/folder.py --config.data_dir=DIR --workdir=runs/mine
Hardware: any. Members and image size are chosen to fit the photographs and the machine; one line says how.
Yields:   depends on the images; the table shows raw pixels and the untrained backbone beside the model.
"""

from sreml_jax.configs import default


def get_config():
    """Returns a run that starts from pretrained weights, on a folder of images, a folder a class."""
    config = default.get_config()
    config.data_name = 'folder'
    config.weights = 'imagenet'
    config.pool = 'gem'
    config.label_smoothing = 0.1
    config.embedding = 'pooled'
    config.mirrored = True
    config.num_epochs = 10
    config.ensemble_size = 0  # chosen by sreml_jax/recipe.py
    config.image_size = 0
    config.meta_class_size = 0
    return config
