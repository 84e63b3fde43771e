"""Weights of several checkpoints made into one: arithmetic on fp32 tensors, streamed from disk to disk."""
