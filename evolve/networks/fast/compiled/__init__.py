"""Kernels as machine code made at run time for their shapes: the VGGs' (:mod:`evolve.networks.fast.kernels` offers them on tensors) and that of a batch
of images (:mod:`evolve.data.resident`).
"""
