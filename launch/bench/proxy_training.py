"""The training of one ResNet with a proxy loss, as the losses' papers set it; see peer_proxy.py.

Proxy Anchor: Kim et al. 2020, margin 0.1 and scale 32. Normalized softmax: Zhai and Wu 2019, temperature
0.05. The first also gives AdamW with decay 1e-4, proxies at 100 times the network's rate (1e-4, which fits
pretrained weights), 512 numbers from the sum of average and maximum pooling, random resized crops and flips.
One cycle of the learning rate spans the run.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator, Mapping

import numpy as np
import peer_torch
import torch
from pytorch_metric_learning import losses
from torch import nn
from torch.nn import functional

LOSSES = {
    'proxy_anchor': lambda classes, dimensions: losses.ProxyAnchorLoss(
        classes, dimensions, margin=0.1, alpha=32
    ),
    'normalized_softmax': lambda classes, dimensions: losses.NormalizedSoftmaxLoss(
        classes, dimensions, temperature=0.05
    ),
}
PROXY_RATE, WEIGHT_DECAY = 100, 1e-4  # the former in learning rates of the network
SCALES, RATIOS = (0.16, 1.0), (3 / 4, 4 / 3)  # of a crop: its share of the image, width by height
WARMUP, TIMED = 3, 10  # steps: before a step is timed, and timed
EMBEDDED = 128  # images at a time


class Network(nn.Module):
    """A whole ResNet with torchvision's names; images [batch, 3, H, W] -> [batch, dimensions], any length."""

    def __init__(self, model_type: str, width: int, stem: str, dimensions: int):
        super().__init__()
        self.small = stem == 'small'
        size, stride = (3, 1) if self.small else (7, 2)
        self.conv1 = nn.Conv2d(3, width, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for index in (1, 2, 3, 4):
            self.add_module(f'layer{index}', peer_torch.stage(model_type, index, width))
        self.fc = nn.Linear(8 * width * (4 if peer_torch.STAGES[model_type][0] else 1), dimensions)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.fc.bias)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what layer4 gives: [batch, channels, height, width]."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = x if self.small else functional.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.features(images)
        return self.fc(x.mean((2, 3)) + x.amax((2, 3)))


def load(net: Network, weights: Mapping[str, np.ndarray]) -> None:
    """Puts weights of torchvision's names into all of the network but `fc`."""
    state = {name: torch.tensor(np.asarray(array, np.float32)) for name, array in weights.items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    left = [n for n in missing if not n.startswith('fc.') and not n.endswith('num_batches_tracked')]
    if left or unexpected:
        raise ValueError(f'missing {left}, unexpected {unexpected}')


class Training:
    """A network, its loss and what is random: on the GPU in bfloat16, if there is one, as the ensemble's.

    Args:
      args: the flags of peer_proxy.
      classes: their number in training.
      weights: torchvision's name -> array, or empty: drawn by the seed.
      mean, std: float32 [3]; RGB, of pixel values divided by 255.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        classes: int,
        weights: Mapping[str, np.ndarray],
        mean: np.ndarray,
        std: np.ndarray,
    ):
        self._args = args
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.threads = torch.get_num_threads()
        self.device_name = torch.cuda.get_device_name() if self._device.type == 'cuda' else 'cpu'
        torch.backends.cudnn.benchmark = True  # all batches have one shape
        torch.manual_seed(args.seed)
        self.net = Network(args.model_type, args.width, args.stem, args.dimensions)
        if weights:
            load(self.net, weights)
        self.net.to(self._device, memory_format=torch.channels_last)
        self.loss = LOSSES[args.loss](int(classes), args.dimensions).to(self._device)
        self._mean, self._std = (torch.tensor(x).to(self._device) for x in (mean, std))

    def run(self, pixels: np.ndarray, labels: np.ndarray, epochs: int) -> float:
        """Trains on uint8 [n, H, W, 3] and int [n] for some epochs; returns the loss of the last step.

        Crops may be smaller than the images; without them the images have the network's size.
        """
        for value in self._steps(pixels, labels, epochs):
            last = value
        return float(last)

    def seconds_of_step(self, pixels: np.ndarray, labels: np.ndarray) -> float:
        """Returns the median seconds of a training step, on a copy: the training itself begins afresh."""
        trial, seconds = copy.copy(self), []
        trial.net, trial.loss = copy.deepcopy((self.net, self.loss))
        steps = trial._steps(pixels, labels, WARMUP + TIMED)
        for _ in range(WARMUP + TIMED):
            start = time.perf_counter()
            float(next(steps))  # waits for a GPU
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[WARMUP:])

    def _steps(self, pixels: np.ndarray, labels: np.ndarray, epochs: int) -> Iterator[torch.Tensor]:
        """Yields the loss of each step; the incomplete last batch of an epoch is dropped."""
        args, random = self._args, torch.Generator().manual_seed(self._args.seed)
        images, classes = (torch.from_numpy(x).to(self._device) for x in (pixels, labels.astype(np.int64)))
        rates, of_epoch = [args.learning_rate, PROXY_RATE * args.learning_rate], len(labels) // args.batch
        groups = [{'params': module.parameters()} for module in (self.net, self.loss)]
        optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=self._device.type == 'cuda')
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=epochs * of_epoch)
        self.net.train()
        for _ in range(epochs):
            order = torch.randperm(len(labels), generator=random).to(self._device)
            for part in order.split(args.batch)[:of_epoch]:
                batch = images[part]
                batch = cropped(batch, args.size, random) if args.crops == 'random' else batch
                batch = self._normalized(batch)
                batch = flipped(batch, random) if args.flips == 'random' else batch
                value = self.loss(self._outputs(batch), classes[part])
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                cycle.step()
                yield value.detach()

    @torch.no_grad()
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the embeddings of whole images, float32 [n, dimensions] of unit length."""
        self.net.eval()
        parts = torch.from_numpy(pixels).split(EMBEDDED)
        outputs = [self._outputs(self._normalized(part.to(self._device))) for part in parts]
        return functional.normalize(torch.cat(outputs), dim=1).cpu().numpy()

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, H, W, 3] of values to 255 -> float32 [n, 3, H, W], in channels_last memory."""
        return ((pixels.float() / 255 - self._mean) / self._std).permute(0, 3, 1, 2)

    def _outputs(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == 'cuda'):
            return self.net(batch).float()


def cropped(pixels: torch.Tensor, size: int, random: torch.Generator) -> torch.Tensor:
    """Cuts a random part out of each image and scales it: uint8 [n, H, W, 3] -> float32 [n, size, size, 3].

    The first of ten boxes that fits into the image is taken, else all of it, as torchvision's
    RandomResizedCrop does; it antialiases by default, too.
    """
    n, height, width = pixels.shape[:3]
    share, ratio, x, y = torch.rand(4, n, 10, generator=random)
    area = (SCALES[0] + (SCALES[1] - SCALES[0]) * share) * height * width
    ratio = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio
    w, h = (area * ratio).sqrt().round().int(), (area / ratio).sqrt().round().int()
    fits = (w <= width) & (h <= height)
    w, h = torch.where(fits, w, width), torch.where(fits, h, height)
    left, top = (x * (width - w + 1)).int(), (y * (height - h + 1)).int()
    boxes = torch.stack([left, top, left + w, top + h], 2)[torch.arange(n), fits.int().argmax(1)]
    parts = [
        functional.interpolate(
            image[None, upper:lower, start:end].permute(0, 3, 1, 2).float(),
            (size, size), mode='bilinear', antialias=True,
        )
        for image, (start, upper, end, lower) in zip(pixels, boxes.tolist(), strict=True)
    ]  # fmt: skip
    return torch.cat(parts).permute(0, 2, 3, 1)


def flipped(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Mirrors each image, [n, 3, H, W], with a probability of one half."""
    chosen = (torch.rand(len(images), generator=random) < 0.5).to(images.device)
    return torch.where(chosen[:, None, None, None], images.flip(3), images)
