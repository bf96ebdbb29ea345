"""Equivariant models: architecture, data, training, report and the model file.

This package is light: importing it, or :mod:`tesseral.models.file`, does not import torch.
"""
