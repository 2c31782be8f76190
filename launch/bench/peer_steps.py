"""Training steps of the PyTorch peer: a plain loop, the loop compiled, as one CUDA graph, and by vmap.

Each of `STEPS` takes (net, dtype) and returns step(images, labels) -> loss, one update by Adam at 1e-4.
images: float [batch, 3, H, W]; labels: int [batch, members]; loss: the mean over both, a scalar. bfloat16
runs under autocast.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection

import peer_torch
import torch
from torch import nn
from torch.nn import functional

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
WARMUP = 3  # steps before a capture, on a stream of their own, as PyTorch's documentation asks


def loop(net: peer_torch.Ensemble, dtype: torch.dtype = torch.float32) -> Step:
    """Runs the members one after another."""
    return _step(net, adam(net.parameters()), dtype)


def compiled(net: peer_torch.Ensemble, dtype: torch.dtype = torch.float32) -> Step:
    """Runs the loop through torch.compile."""
    return _step(torch.compile(net), adam(net.parameters()), dtype)


def graph(net: peer_torch.Ensemble, dtype: torch.dtype = torch.float32) -> Step:
    """Replays the loop's whole step, update included, as one CUDA graph; all batches have one shape."""
    if net.conv1.weight.device.type != 'cuda':
        raise ValueError('a CUDA graph needs a GPU')
    optimizer = adam(net.parameters(), capturable=True)
    once = _step(net, optimizer, dtype)
    captured: list = []

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if not captured:
            captured.extend(_capture(once, net, optimizer, images, labels))
        program, inputs, loss = captured
        for held, given in zip(inputs, (images, labels), strict=True):
            held.copy_(given)
        program.replay()
        return loss.clone()

    return step


def vmap(net: peer_torch.Ensemble, dtype: torch.dtype = torch.float32) -> Step:
    """Runs all members at once, by torch.func: their convolutions become grouped ones.

    The members' parameters and statistics are copied into stacked arrays; those in `net` stay behind.
    """
    parameters, statistics = torch.func.stack_module_state([*net.members])
    member = copy.deepcopy(net.members[0])
    if dtype == torch.bfloat16:
        for norm in (module for module in member.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.__class__ = Float32Norm

    def one(parameters: dict, statistics: dict, x: torch.Tensor) -> torch.Tensor:
        if dtype == torch.bfloat16:  # autocast does not reach into vmap
            parameters = {name: w.bfloat16() if _is_cast(name, w) else w for name, w in parameters.items()}
        return torch.func.functional_call(member, (parameters, statistics), (x,))

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(one, (0, 0, None), out_dims=1)(parameters, statistics, net.trunk(images))

    trunk = [value for name, value in net.named_parameters() if not name.startswith('members.')]
    return _step(forward, adam([*trunk, *parameters.values()]), dtype)


STEPS = {'loop': loop, 'compiled': compiled, 'graph': graph, 'vmap': vmap}


def adam(parameters: Iterable[torch.Tensor], capturable: bool = False) -> torch.optim.Adam:
    """Returns PyTorch's fastest Adam for the parameters' device."""
    parameters = [*parameters]
    return torch.optim.Adam(parameters, 1e-4, fused=parameters[0].is_cuda, capturable=capturable)


class Float32Norm(nn.BatchNorm2d):
    """BatchNorm of bfloat16 in float32: under vmap it does not mix the two, as it does otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


def _is_cast(name: str, weight: torch.Tensor) -> bool:
    """Whether autocast would cast a member's parameter: those of convolutions and of the classifier."""
    return weight.dim() > 1 or name.startswith('fc.')


def _step(
    forward: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Adam, dtype: torch.dtype
) -> Step:
    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = forward(images)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _capture(
    once: Step,
    net: peer_torch.Ensemble,
    optimizer: torch.optim.Adam,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns (graph, its inputs, its loss); net and optimizer are left as before the first update."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    inputs = images.clone(memory_format=torch.channels_last), labels.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARMUP):
            once(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    optimizer.zero_grad(set_to_none=True)
    program = torch.cuda.CUDAGraph()
    with torch.cuda.graph(program):
        loss = once(*inputs)
    net.load_state_dict(before)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    return program, inputs, loss


def serve(
    requests: Connection,
    name: str,
    model_type: str,
    members: int,
    meta_classes: int,
    shape: tuple[int, int],
    device: str,
    bfloat16: bool,
) -> None:
    """Runs as many steps of STEPS[name] as a request says, and answers; shape: the images' (batch, size)."""
    net = peer_torch.build(model_type, members, meta_classes, device)
    step = STEPS[name](net, torch.bfloat16 if bfloat16 else torch.float32)
    batch, size = shape
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(meta_classes, (batch, members), device=device)
    with contextlib.suppress(EOFError):  # the timing is over
        while in_a_row := requests.recv():
            for _ in range(in_a_row):
                step(images, labels)
            if device == 'cuda':
                torch.cuda.synchronize()
            requests.send(True)
