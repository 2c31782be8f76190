"""The PyTorch loop of launch/ against the golden cases: the peer of the timings is the same system."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.golden import BACKBONES, Case, fill

torch = pytest.importorskip('torch', reason='torch is not installed')
import peer_torch  # noqa: E402


@pytest.mark.parametrize('backbone', BACKBONES)
def test_the_peer_gives_the_golden_numbers(backbone):
    case = Case(backbone)
    expected = case.expected
    net = peer_torch.build(backbone, case.members, int(expected['meta']))
    filled = {
        name: torch.tensor(fill(name, tuple(value.shape))) if value.dim() else value
        for name, value in net.state_dict().items()
    }
    net.load_state_dict(filled)
    net.double()
    images = torch.tensor(case.images.transpose(0, 3, 1, 2))
    embedding = peer_torch.embed(net.eval(), images)
    assert_allclose(embedding.numpy(), expected['eval_embedding'], rtol=1e-9, atol=1e-12)
    step = peer_torch.make_train_step(net.train())
    losses = [float(step(images, torch.tensor(case.meta_labels))) for _ in range(3)]
    assert_allclose(losses, expected['losses'], rtol=1e-9)
    np.testing.assert_array_less(losses[1], losses[0])
