"""What a person sees while probes run: one line per probe with the time left, and no library noise."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Show = Callable[[str], None]


class Meter:
    """Turns lm-eval's progress into lines such as "world_facts: 45%, 12 s left", twice a second."""

    def __init__(self, show: Show | None) -> None:
        """Report to `show`, or to nobody."""
        self.show = show
        self.name = ""
        self.begin(1)

    def begin(self, total: int) -> None:
        """A new list of requests."""
        self.total, self.done = total, 0
        self.started = self.shown = time.perf_counter()

    def step(self, count: int = 1) -> None:
        """So many requests are done."""
        self.done += count
        now = time.perf_counter()
        if self.show is None or now - self.shown < 0.5:
            return
        self.shown = now
        left = (now - self.started) * (self.total - self.done) / self.done
        rest = f", {left:.0f} s left" if self.done < self.total else ""
        self.show(f"\r{self.name}: {min(1, self.done / self.total):.0%}{rest}")


def show_progress(text: str) -> None:
    """Print a progress line to stderr; on a terminal, passing lines overwrite each other."""
    if sys.stderr.isatty():
        end = "" if text.startswith("\r") else "\n"
        print(f"\r\x1b[K{text.lstrip(chr(13))}", end=end, file=sys.stderr, flush=True)
    elif not text.startswith("\r"):
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet(meter: Meter, verbose: bool) -> Iterator[None]:
    """Feed the meter in place of lm-eval's bars, and hold back what libraries log below errors."""
    if verbose:
        yield
        return

    class Bar:
        """Stands in for tqdm."""

        def __init__(self, iterable: Iterable[Any] = (), *_: Any, **__: Any) -> None:
            self.iterable = iterable

        def __iter__(self) -> Iterator[Any]:
            return iter(self.iterable)

        def update(self, count: int = 1) -> None:
            """So many requests are done."""
            meter.step(count)

        def close(self) -> None:
            """Nothing to close."""

    from unittest import mock  # slow to import, and planning imports this module

    import datasets

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = not datasets.utils.logging.is_progress_bar_enabled()
    with contextlib.ExitStack() as stack:
        for module in ("lm_eval.models.huggingface", "lm_eval.api.task", "lm_eval.api.model"):
            stack.enter_context(mock.patch(f"{module}.tqdm", Bar))
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if not bars:
                datasets.enable_progress_bars()
