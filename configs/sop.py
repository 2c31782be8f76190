"""Stanford Online Products: 11,318 products to train on, 11,316 others to retrieve.

Command:  python -m sreml_jax.main --config=configs/sop.py --workdir=runs/sop
Data:     Stanford_Online_Products.zip, or what is in it, in data/ or data/sop/; or --config.download=True
Hardware: a GPU; the seed used three V100 of 32 GB. --mode=describe says what a model needs.
Yields:   not yet measured, and not reported by the seed.
"""

from sreml_jax.configs import default


def get_config():
    """Returns the run of the seed on this dataset."""
    config = default.get_config()
    config.data_name = 'sop'
    config.mean = (0.5807, 0.5396, 0.5044)
    config.std = (0.2901, 0.2974, 0.3095)
    config.weights = 'imagenet'
    config.meta_class_size = 500
    return config
