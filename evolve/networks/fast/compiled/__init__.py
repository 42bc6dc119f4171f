"""Kernels as machine code made at run time for their shapes.

They are the VGGs' (:mod:`evolve.networks.fast.kernels` offers them on tensors), that of a batch of
images, and those over all parameters of a network.
"""
