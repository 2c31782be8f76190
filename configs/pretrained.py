"""A pretrained backbone without training: photographs are searchable in a minute.

Command:  python -m sreml_jax.main --mode=embed --images=PHOTOS --out=INDEX
Data:     any photographs; nothing is trained, so no classes are needed
Hardware: any; a CPU core embeds some 10 images/s of a ResNet-18
Yields:   generalized-mean features of a ResNet trained on ImageNet: a baseline, which training beats
"""

from sreml_jax.configs import default


def get_config():
    """Returns one member of pretrained weights, whose pooled features are the embedding."""
    config = default.get_config()
    config.data_name = 'folder'
    config.weights = 'imagenet'
    config.ensemble_size = 1
    config.gpu_ids = (0,)  # one member is not spread over devices
    config.image_size = 224
    config.pool = 'gem'
    config.embedding = 'pooled'
    return config
