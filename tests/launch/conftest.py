"""What the tests beside PyTorch share."""

import pytest


@pytest.fixture
def one_torch_thread():
    """Two tests run at once; threads of both on the same cores slow each other down many times."""
    torch = pytest.importorskip('torch')
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
