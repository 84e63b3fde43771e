"""Quiet libraries. Must run before they are imported; `-v` leaves them as they are."""

import logging
import os
import warnings

VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "DS_LOG_LEVEL": "error",
    "PYTHONWARNINGS": "ignore",
}
LOGGERS = (
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "peft",
    "lm_eval",
    "DeepSpeed",
    "deepspeed",
    "torch",
)


def hush(verbose: bool) -> None:
    """Silence the libraries' logs, bars and warnings for this process and its children."""
    for name, value in VARIABLES.items():
        if not verbose or "TELEMETRY" in name or "TOKENIZERS" in name:
            os.environ.setdefault(name, value)
    if verbose:
        return
    warnings.filterwarnings("ignore")
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        # DeepSpeed sets its own level when it is imported; a filter stays.
        logger.addFilter(lambda record: record.levelno >= logging.ERROR)


def hush_bars(verbose: bool) -> None:
    """Switch off the bars of transformers, once it is imported."""
    if not verbose:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
