"""What bitsandbytes' optimizers remember of earlier ones in the same process."""

import sys


def forget_overrides() -> None:
    """Let a stage's 8-bit optimizer know of its own weights only.

    transformers registers every embedding with one manager for the whole process, as 32-bit. That keeps the
    place of each in its optimizer, which in a later stage may be another weight's, and each model alive: a
    chain in one process would train otherwise than one that was interrupted, and hold all its models.
    """
    if "bitsandbytes" in sys.modules:
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().initialize()
