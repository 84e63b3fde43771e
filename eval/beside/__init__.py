"""Models side by side: their probes, their answers to the same prompts, and what a judge prefers."""
