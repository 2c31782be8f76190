"""What a user would pick instead: one ResNet with a proxy loss of pytorch-metric-learning, in PyTorch.

python launch/bench peer_proxy --images=FOLDER --weights=resnet18.npz --epochs=8
python launch/bench peer_proxy --images=FOLDER --weights=resnet18.npz --seconds=600 --loss=normalized_softmax
python launch/bench peer_proxy --images=CHARACTERS --size=48 --width=32 --stem=small --crops=none --flips=none

Images and weights are those of `birds`; random crops are cut from larger squares, as a user of PyTorch cuts
them from photographs. The searched images are scored by this project's own protocol. With --seconds, some
steps on a copy of the network are timed first, and the schedule spans the whole epochs that fit. The loss's
and the optimizer's settings are in proxy_training.py.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from birds import photographs, whole
from measure import keep, positive

from sreml_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.resnet import BACKBONES
from sreml_jax.model.weights import torchvision
from sreml_jax.retrieval import metrics, recall
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime.errors import UserError

KS = (1, 2, 4, 8)  # of Recall@K


def main() -> None:
    """Runs what the flags ask for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', required=True, help='a folder or tar of <class>/*, or of train/ and test/')
    p.add_argument('--weights', default='none', help='initial weights: a file, or none')
    p.add_argument('--model_type', default='resnet18', choices=BACKBONES)
    p.add_argument('--width', type=positive, default=64, help='channels of the stem')
    p.add_argument('--stem', default='imagenet', choices=('imagenet', 'small'))
    p.add_argument('--dimensions', type=positive, default=512, help='numbers of an embedding')
    p.add_argument('--loss', default='proxy_anchor', choices=('proxy_anchor', 'normalized_softmax'))
    p.add_argument('--crops', default='random', choices=('random', 'none'))
    p.add_argument('--flips', default='random', choices=('random', 'none'))
    p.add_argument('--size', type=positive, default=256)
    p.add_argument('--photographs', type=positive, default=256, help='side of what crops are cut from')
    p.add_argument('--batch', type=positive, default=32)
    p.add_argument('--learning_rate', type=float, default=1e-4, help='the proxies learn 100 times as fast')
    p.add_argument('--seed', type=int, default=0)
    length = p.add_mutually_exclusive_group()
    length.add_argument('--epochs', type=positive, default=8)
    length.add_argument('--seconds', type=positive, help='train the whole epochs that fit into this time')
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # PyTorch has the GPU first
    try:
        import proxy_training
    except ModuleNotFoundError as error:
        p.error(f"{error.name} is not installed: pip install '.[bench]'")
    try:
        weights = torchvision.read(
            args.weights, Ensemble(args.model_type, 1, 1, width=args.width, stem=args.stem)
        )
    except UserError as error:
        p.error(str(error))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dataset = photographs(Path(args.images), args.size, Path(folder))
    if weights:
        dataset.mean, dataset.std = (np.asarray(x, np.float32) for x in (IMAGENET_MEAN, IMAGENET_STD))
    labels, steps = dataset.labels, dataset.steps_per_epoch(args.batch)
    if not steps:
        p.error(f'--batch={args.batch}, but there are only {len(labels["train"])} training images')
    pixels = {split: whole(dataset, split) for split in labels}
    if args.crops == 'random':
        with tempfile.TemporaryDirectory() as folder:
            pixels['train'] = whole(photographs(Path(args.images), args.photographs, Path(folder)), 'train')
    seconds = {'decoding': time.perf_counter() - start}

    training = proxy_training.Training(args, labels['train'].max() + 1, weights, dataset.mean, dataset.std)
    if args.seconds:
        seconds['a step, timed before'] = of_step = training.seconds_of_step(pixels['train'], labels['train'])
        args.epochs = epochs_within(args.seconds, of_step, steps)
        print(f'{args.epochs} epochs of {steps} steps of {of_step:.3f} s within {args.seconds} s', flush=True)
    start = time.perf_counter()
    last_loss = training.run(pixels['train'], labels['train'], args.epochs)
    seconds['training'] = time.perf_counter() - start
    print(f'trained {args.epochs} epochs in {seconds["training"]:.1f} s', flush=True)

    start = time.perf_counter()
    embedding = training.embed(pixels['test'])
    seconds['embedding'] = time.perf_counter() - start
    start = time.perf_counter()
    found = scores(embedding, labels['test'])
    seconds['search'] = time.perf_counter() - start
    both = embedding + training.embed(np.ascontiguousarray(pixels['test'][:, :, ::-1]))
    found['with mirror images'] = scores(both / np.linalg.norm(both, axis=1, keepdims=True), labels['test'])
    figures = {
        'device': training.device_name,
        'threads': training.threads,
        'train images': len(labels['train']),
        'queries': len(labels['test']),
        'dimensions': embedding.shape[1],
        'epochs': args.epochs,
        'steps': args.epochs * steps,
        'seconds': {name: round(value, 4) for name, value in seconds.items()},
        'images/s of training': round(args.epochs * steps * args.batch / seconds['training'], 1),
        'last loss': round(last_loss, 4),
        **found,
    }
    keep(figures, args)


def epochs_within(seconds: float, of_step: float, steps: int) -> int:
    """Returns the whole epochs that fit into a time, at least 1.

    Args:
      seconds: the time.
      of_step: seconds of a step.
      steps: of an epoch.
    """
    return max(1, int(seconds / (of_step * steps)))


def scores(embedding: np.ndarray, labels: np.ndarray) -> dict:
    """Returns Recall@K and MAP@R of float32 [n, d], rows of unit length: each queries all the others."""
    protocol = Protocol(labels, labels, same=True)
    recalls = recall.recall_at(recall.ranks(embedding, embedding, protocol), KS)
    correct = metrics.correct_neighbors(embedding, embedding, protocol)
    return {
        'Recall': {str(k): round(share, 4) for k, share in recalls.items()},
        'MAP@R': round(metrics.map_at_r(correct, protocol.relevant), 4),
    }


if __name__ == '__main__':
    main()
