"""The network goes away for a while: asking again, each time later, and then one clear error.

Only what may pass is tried again: a lost connection, a time-out, a server that is busy. What the hub refuses,
and what is not there, is told at once; so is everything where HF_HUB_OFFLINE says that there is no network.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from cpt.redact import redact

T = TypeVar("T")
#: Seconds before each further try: a minute in all, which outlasts a restarted router or proxy.
WAITS = (2.0, 4.0, 8.0, 16.0, 32.0)
#: For the end of an error that came all the same.
KEPT = "; what is finished is kept, and the same command continues when the network is back"
_BUSY = (408, 425, 429, 500, 502, 503, 504)
# Of requests, urllib3, httpx and aiohttp, none of which need be installed; some of them are no OSError.
_LOST = {
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "ReadError",
    "ReadTimeout",
    "WriteError",
    "WriteTimeout",
    "PoolTimeout",
    "Timeout",
    "RemoteProtocolError",
    "ChunkedEncodingError",
    "IncompleteRead",
    "ProtocolError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "ServerTimeoutError",
}


def is_offline() -> bool:
    """Whether the environment says that there is no network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def is_passing(error: BaseException) -> bool:
    """Whether an error, or what caused it, may be over in a moment."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if status is not None:
            return status in _BUSY
        names = {kind.__name__ for kind in type(seen).__mro__}
        if isinstance(seen, ConnectionError | TimeoutError) or names & _LOST:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def retried(ask: Callable[[], T], what: str) -> T:
    """What `ask` returns, asked again after each passing error.

    Args:
        ask: reads from the network.
        what: is read, for people.

    Raises:
        Exception: the last one of `ask`.
    """
    for tried, wait in enumerate(WAITS, start=1):
        try:
            return ask()
        except Exception as error:
            if not _shall_wait(error, tried, wait, what):
                raise
    return ask()


def resumed(start: Callable[[], Iterator[T]], what: str) -> Iterator[T]:
    """The items of a stream that always gives the same; after a passing error it goes on where it was.

    Raises:
        Exception: the last one of the stream, when as many tries in a row gave no item.
    """
    num_given = tried = 0
    while True:
        try:
            for item in islice(start(), num_given, None):
                num_given, tried = num_given + 1, 0
                yield item
            return
        except Exception as error:
            tried += 1
            if tried > len(WAITS) or not _shall_wait(error, tried, WAITS[tried - 1], what):
                raise


def _shall_wait(error: Exception, tried: int, wait: float, what: str) -> bool:
    """Wait if it makes sense, and say so."""
    if is_offline() or not is_passing(error):
        return False
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    text = f"{what}: {why}; trying again in {wait:g} s ({tried} of {len(WAITS)})"
    print(f"cpt: {redact(text)}", file=sys.stderr, flush=True)
    time.sleep(wait)
    return True
