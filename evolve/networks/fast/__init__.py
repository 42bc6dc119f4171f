"""Compiled kernels, written passes, products with the Hessian and captured graphs."""
