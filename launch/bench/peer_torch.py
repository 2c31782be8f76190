"""The same system as a PyTorch user would write it: a Python loop over the members' networks.

Parameters carry torchvision's names, a member's after 'members.<m>.'. Images are [batch, 3, H, W] in
channels_last memory. peer_steps.py trains it.
"""

import torch
from torch import nn
from torch.nn import functional

STAGES = {  # bottleneck, blocks of layer1..layer4, groups, channels of one group in layer1
    'resnet18': (False, (2, 2, 2, 2), 1, 64),
    'resnet34': (False, (3, 4, 6, 3), 1, 64),
    'resnet50': (True, (3, 4, 6, 3), 1, 64),
    'resnext50_32x4d': (True, (3, 4, 6, 3), 32, 4),
}


class Residual(nn.Module):
    """relu(convolutions(x) + shortcut(x)): two 3x3, or 1x1, 3x3 in groups, 1x1."""

    def __init__(
        self, inputs: int, planes: int, stride: int, bottleneck: bool, groups: int, group_width: int
    ):
        super().__init__()
        if bottleneck:
            middle, outputs = groups * group_width * planes // 64, 4 * planes
            layers = [
                (inputs, middle, 1, 1, 1),
                (middle, middle, 3, stride, groups),
                (middle, outputs, 1, 1, 1),
            ]
        else:
            outputs = planes
            layers = [(inputs, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        self.depth = len(layers)
        for i, (a, b, size, step, parts) in enumerate(layers, 1):
            self.add_module(f'conv{i}', nn.Conv2d(a, b, size, step, size // 2, groups=parts, bias=False))
            self.add_module(f'bn{i}', nn.BatchNorm2d(b))
        self.downsample = None
        if (inputs, 1) != (outputs, stride):
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(x))
            x = functional.relu(x if i < self.depth else x + shortcut)
        return x


def stage(model_type: str, index: int, width: int = 64) -> nn.Sequential:
    """Returns layer1 to layer4 (index 1 to 4) of a backbone whose stem has `width` channels."""
    bottleneck, blocks, groups, group_width = STAGES[model_type]
    planes, expansion = width * 2 ** (index - 1), 4 if bottleneck else 1
    inputs, stride = (width, 1) if index == 1 else (planes // 2 * expansion, 2)
    first = Residual(inputs, planes, stride, bottleneck, groups, group_width)
    rest = (
        Residual(planes * expansion, planes, 1, bottleneck, groups, group_width)
        for _ in range(blocks[index - 1] - 1)
    )
    return nn.Sequential(first, *rest)


class Member(nn.Module):
    """layer2, layer3, layer4, average pool and classifier."""

    def __init__(self, model_type: str, meta_classes: int):
        super().__init__()
        self.layer2, self.layer3, self.layer4 = (stage(model_type, index) for index in (2, 3, 4))
        self.fc = nn.Linear(512 * (4 if STAGES[model_type][0] else 1), meta_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(self.layer3(self.layer2(x))).mean((2, 3)))


class Ensemble(nn.Module):
    """Images -> logits [batch, members, meta classes]."""

    def __init__(self, model_type: str, members: int, meta_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(model_type, 1)
        self.members = nn.ModuleList(Member(model_type, meta_classes) for _ in range(members))

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what all members read."""
        x = functional.relu(self.bn1(self.conv1(images)))
        return self.layer1(functional.max_pool2d(x, 3, 2, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.trunk(images)
        return torch.stack([member(x) for member in self.members], 1)


def build(model_type: str, members: int, meta_classes: int, device: str = 'cpu') -> Ensemble:
    """Returns the network on `device`, in channels_last memory, in training mode."""
    return Ensemble(model_type, members, meta_classes).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def embed(net: Ensemble, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns [batch, members * meta classes] of unit length; call net.eval() first."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = net(images)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.normalize(logits, dim=-1).flatten(1) / len(net.members) ** 0.5
