"""Rehearsal without a model or a trainer: which old rows are kept, chosen, left out, and when they come."""
