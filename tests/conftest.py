"""One thread, as in the engine's workers: two would sum in another order, so a test of equal bits would depend on which ran before it."""

import torch

torch.set_num_threads(1)
