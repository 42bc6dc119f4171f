"""One thread, as in a worker process: bit-stable, and not slowed down by a busy machine."""

import torch

torch.set_num_threads(1)
