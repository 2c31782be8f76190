"""CUB-200-2011: birds of 100 kinds to train on, of 100 others to retrieve.

Command:  python -m sreml_jax.main --config=configs/cub.py --workdir=runs/cub
Data:     CUB_200_2011.tgz, or what is in it, in data/ or data/cub/; or --config.download=True
Hardware: a GPU; the seed used three V100 of 32 GB. --mode=describe says what a model needs.
Yields:   not yet measured. The seed reports Recall@1 of 62.22% (resnet18), 64.53% (resnet34), 66.19%
          (resnet50) and 69.92% (resnext50_32x4d); with --config.crop_type=cropped 73.48%, 74.05%, 76.69%
          and 78.36%.
"""

from sreml_jax.configs import default


def get_config():
    """Returns the run of the seed on this dataset."""
    config = default.get_config()
    config.data_name = 'cub'
    config.mean = (0.4707, 0.4601, 0.4549)
    config.std = (0.2767, 0.2760, 0.2850)
    config.weights = 'imagenet'
    return config
