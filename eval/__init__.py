"""Probe suites, the matrix of stages x probes, paired comparisons and the gate."""
