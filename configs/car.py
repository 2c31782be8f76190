"""CARS196 (Stanford Cars): 98 models of cars to train on, 98 others to retrieve.

Command:  python -m sreml_jax.main --config=configs/car.py --workdir=runs/car
Data:     in data/ or data/car/, packed or unpacked: cars_annos.mat and car_ims.tgz; or car_devkit.tgz,
          cars_train.tgz, cars_test.tgz and cars_test_annos_withlabels.mat
Hardware: a GPU; the seed used three V100 of 32 GB. --mode=describe says what a model needs.
Yields:   not yet measured. The seed reports Recall@1 of 89.85% (resnet18), 91.23% (resnet34), 93.09%
          (resnet50) and 93.75% (resnext50_32x4d); with --config.crop_type=cropped 94.33%, 95.46%, 95.87%
          and 96.26%.
"""

from sreml_jax.configs import default


def get_config():
    """Returns the run of the seed on this dataset."""
    config = default.get_config()
    config.data_name = 'car'
    config.mean = (0.4853, 0.4965, 0.4295)
    config.std = (0.2237, 0.2193, 0.2568)
    config.weights = 'imagenet'
    return config
