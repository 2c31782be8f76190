"""Every field of a run and its default: the seed's, if the seed has one. Other configs override these.

Command:  none of its own; python -m sreml_jax.main --config=configs/cub.py and the like
Hardware: a GPU for the seed's 48 members
Yields:   see the other configs
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Returns the config of one run; `--config.FIELD=VALUE` overrides a field."""
    c = config_dict.ConfigDict()

    # Data.
    c.data_name = 'glyphs'  # car, cub, sop, isc, folder or glyphs
    c.data_dir = 'data'  # where the user's copy lies: in this folder or in its subfolder <data_name>
    c.prepared_dir = '~/.cache/sreml_jax'  # where the prepared copy of a dataset is kept
    c.crop_type = 'uncropped'  # 'cropped' cuts out the bounding box (car and cub have one)
    c.image_size = 256  # pixels; both sides, as the seed resizes; 0: chosen, see configs/folder.py
    c.mean = ()  # RGB mean, three numbers in 0..1; () is ImageNet's with weights, else the training images'
    c.std = ()  # RGB standard deviation, by the same rule
    # A folder without train/ and test/ is split by 'classes': some train, the others are tested. By 'images',
    # some of each class train and the others query them, which is not the benchmark's protocol.
    c.split_by = 'classes'
    c.train_fraction = 0.5  # then: the share of the sorted classes, or of each class's images, to train on
    c.validation_share = 0.0  # of the training classes, held out: their Recall@1 is shown while training
    c.max_images_per_class = 0  # most images of a class in an epoch, drawn again each epoch; 0: all
    c.skip_unreadable = False  # leave unreadable images out, with a warning
    c.allow_missing = False  # go on if listed images are missing, and say so in every table
    c.download = False  # fetch cub or sop from its official address
    c.cache = 'auto'  # keep decoded images in memory: 'auto' (if they fit), 'on', 'off'

    # Model.
    c.model_type = 'resnet18'  # resnet18, resnet34, resnet50 or resnext50_32x4d
    c.ensemble_size = 48  # members; 0: chosen to fit the machine, see configs/folder.py
    c.meta_class_size = 12  # meta classes of each member; 0: the training classes, at most 100
    c.width = 64  # channels of the stem; 64 is torchvision's
    c.stem = 'imagenet'  # 'imagenet': 7x7/2 and max-pool; 'small': 3x3/1, for images under 100 pixels
    c.pool = 'average'  # pooling of a member's last features; 'gem' is the generalized mean, of power 3
    c.weights = 'none'  # initial weights: 'imagenet', 'none', or a ResNet's .safetensors, .npz or .pth file

    # Training.
    c.batch_size = 12
    c.num_epochs = 20
    c.learning_rate = 1e-4
    # The seed says only "Adam with learning rate scheduling"; the step schedule's values are those of the
    # same authors' DREML code. 'cosine' falls to 0 over the run, 'constant' stays.
    c.schedule = 'step'
    c.schedule_steps = (0.5, 0.7)  # 'step': the shares of the epochs after which the rate is ...
    c.schedule_factor = 0.1  # ... multiplied by this
    c.warmup_epochs = 0.0  # linear from 0, before any schedule
    c.label_smoothing = 0.0  # share of the target spread evenly over all meta classes
    c.skip_nonfinite = 0  # updates with a non-finite loss or gradient to skip before the run stops
    c.seed = 0

    # Evaluation.
    c.validation_epochs = 1  # epochs between two looks at the held-out classes
    c.recalls = (1, 2, 4, 8, 10, 20, 30, 40, 50, 100, 1000)  # the K of Recall@K
    c.eval_batch_size = 64
    # The embedding: each member's 'logits' (the seed), or its 'pooled' features before them.
    c.embedding = 'logits'
    c.mirrored = False  # embed an image together with its mirror image: it finds more, in twice the time
    c.embedding_dim = 0  # dimensions of an embedding in an index, after PCA and whitening; 0: all

    # Machine.
    c.gpu_ids = ()  # local devices to use; () takes all
    c.mesh = ()  # (data, member) devices; () puts all on the member axis
    c.dtype = 'auto'  # computation in 'float32' or 'bfloat16'; 'auto' is bfloat16 on a GPU
    c.member_conv = 'auto'  # how a member's convolutions run; see sreml_jax/model/conv/member_conv.py
    c.remat = False  # compute activations again in the backward pass: less memory, a third more work
    c.compilation_cache = '~/.cache/sreml_jax/xla'  # compiled programs are kept here; '' keeps none

    # Checkpoints.
    c.checkpoint_minutes = 10.0  # save this often, at the end, and when stopped by a signal
    c.checkpoints_kept = 2  # number of the newest checkpoints that stay
    c.stall_minutes = 10.0  # stop if no batch arrives for this long
    c.log_every = 10  # steps between two lines of metrics.jsonl
    return c
