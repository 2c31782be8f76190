"""The PyTorch peer against the golden cases, and its faster steps against its plain loop."""

import pytest
from numpy.testing import assert_allclose
from support.golden import Case, fill

torch = pytest.importorskip('torch', reason='torch is not installed')
import peer_steps  # noqa: E402
import peer_torch  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_torch_thread')


@pytest.mark.parametrize('backbone', ['resnet18', 'resnext50_32x4d'])
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
    step = peer_steps.loop(net.train())
    # The update is the same code for all backbones: of three steps, one backbone is enough.
    steps = 3 if backbone == 'resnet18' else 1
    losses = [float(step(images, torch.tensor(case.meta_labels))) for _ in range(steps)]
    assert_allclose(losses, expected['losses'][:steps], rtol=1e-9)


def losses(name, device='cpu', dtype=torch.float64, steps=3, model_type='resnet18'):
    """A few losses of one kind of step, from the same weights and images each time."""
    torch.manual_seed(0)
    net = peer_torch.build(model_type, members=2, meta_classes=3).to(device)
    images = torch.randn(4, 3, 32, 32, device=device)
    if dtype == torch.float64:
        net, images = net.double(), images.double()
    labels = torch.tensor([[0, 2], [1, 1], [2, 0], [1, 2]], device=device)
    step = peer_steps.STEPS[name](net, dtype)
    return [float(step(images, labels)) for _ in range(steps)]


@pytest.mark.parametrize('model_type', ['resnet18', 'resnext50_32x4d'])
def test_vmap_gives_the_numbers_of_the_loop(model_type):
    expected = losses('loop', model_type=model_type)
    assert len({*expected}) == 3
    found = losses('vmap', model_type=model_type)
    assert_allclose(found[0], expected[0], rtol=1e-9)
    assert_allclose(found, expected, rtol=1e-4)  # Adam divides rounding by rounding where gradients vanish


def test_vmap_runs_in_bfloat16_near_the_loop():
    # The first loss: later ones depend on Adam's signs, which rounding turns.
    assert_allclose(
        losses('vmap', dtype=torch.bfloat16, steps=1),
        losses('loop', dtype=torch.bfloat16, steps=1),
        rtol=0.03,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU that PyTorch can use')
@pytest.mark.parametrize('name', ['graph', 'vmap'])
def test_the_faster_steps_give_the_numbers_of_the_loop_on_a_gpu(name):
    assert_allclose(losses(name, 'cuda'), losses('loop', 'cuda'), rtol=1e-4)


def test_a_graph_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match='needs a GPU'):
        losses('graph')
