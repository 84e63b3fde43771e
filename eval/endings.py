"""How generated answers ended: lm-eval hands on their text alone, which says nothing of tokens.

HFLM sorts prompts into batches, and tells its cache of each text as it is made: that order is kept here.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from eval.behaviour.reply import Reply


class Endings:
    """What HFLM's cache hook would be told, beside the tokens that were generated."""

    def __init__(self, harness: Any) -> None:
        """Of one call of `generate_until`."""
        self.harness = harness
        own = harness.model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        self.ends = {harness.eot_token_id, *(end for end in ends if end is not None)}
        self.waiting: deque[tuple[int | None, bool]] = deque()
        self.replies: dict[tuple[str, str, str], Reply] = {}

    def note(self, rows: list[list[int]], stop: list[str]) -> None:
        """The tokens of one batch's answers; what follows an end is padding."""
        for row in rows:
            ends = [place for place, token in enumerate(row) if token in self.ends]
            if ends:
                self.waiting.append((ends[0], True))
            elif any(word in self.harness.tok_decode(row) for word in stop):
                self.waiting.append((None, True))
            else:
                self.waiting.append((len(row), False))

    def add_partial(self, attribute: str, request: tuple[str, Any], text: str) -> None:
        """HFLM's next text, in the order of the batches."""
        num_tokens, has_ended = self.waiting.popleft()
        prompt, settings = request
        self.replies[prompt, repr(settings), text] = Reply(text, num_tokens, has_ended)

    def reply(self, prompt: str, settings: Any, text: str) -> Reply:
        """An answer as HFLM returned it, with its ending."""
        return self.replies[prompt, repr(settings), text]


@contextlib.contextmanager
def noted(harness: Any) -> Iterator[Endings]:
    """Listen where HFLM's cache would, for one call."""
    before, harness.cache_hook = harness.cache_hook, Endings(harness)
    try:
        yield harness.cache_hook
    finally:
        harness.cache_hook = before
