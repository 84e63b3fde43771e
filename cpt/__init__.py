"""Continual post-training: chains of training stages that keep what the model could do."""

__version__ = "0.1.0"
