"""The training hot loop: several descendants side by side, as plain PyTorch (the reference), fused on a CPU, captured on a GPU.

Every trainer here computes the same: the same batches in the same order, the same update. They differ in speed and rounding.
"""
