"""One thread, as in the engine's workers.

Two would sum in another order, so a test of equal bits would depend on which ran before it.
"""

import pytest
import torch
from pictures import sketched

torch.set_num_threads(1)


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what stands beside the figures."""
    sketched(monkeypatch)
