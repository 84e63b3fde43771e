"""Jobs for SLURM that run a chain, and continue it by themselves where the scheduler interrupts them."""
