"""In-shop Clothes Retrieval (DeepFashion): 3,997 garments to train on, 3,985 others to find in a gallery.

Command:  python -m sreml_jax.main --config=configs/isc.py --workdir=runs/isc
Data:     Eval/list_eval_partition.txt and Img/img.zip, or what is in it, in data/ or data/isc/
Hardware: a GPU; the seed used three V100 of 32 GB. --mode=describe says what a model needs.
Yields:   not yet measured. The seed reports Recall@1 of 83.88% (resnet18).
"""

from sreml_jax.configs import default


def get_config():
    """Returns the run of the seed on this dataset."""
    config = default.get_config()
    config.data_name = 'isc'
    config.mean = (0.8324, 0.8109, 0.8041)
    config.std = (0.2206, 0.2378, 0.2444)
    config.weights = 'imagenet'
    config.meta_class_size = 192
    return config
