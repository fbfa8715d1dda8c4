"""Choosing K, the size of the perturbation and the length of the repair without a retrained model."""
