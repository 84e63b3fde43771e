"""Random generators that something must not move."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Put every random generator back as it was."""
    import random

    import numpy as np
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
