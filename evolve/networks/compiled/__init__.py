"""Kernels of the VGGs as machine code made at run time for their shapes. :mod:`evolve.networks.kernels` offers them on tensors."""
