"""A judge behind an OpenAI-compatible endpoint: `POST <base>/chat/completions`, over urllib alone.

Nothing is sent but the questions, and only to the address that was given: redirects are errors, and the key
goes over https, or to this machine.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cpt.errors import ProbeError, RecipeError
from eval.beside.kept import Kept
from eval.progress import Meter
from eval.report.text import shorten

TRIES = 6
LONGEST_WAIT = 60.0
PARALLEL = 4
HERE = ("localhost", "127.0.0.1", "::1")
_LETTER = re.compile(r"\W*(?:(?:the )?(?:better )?answer(?: is)?\W*)?([AB])\W*", re.IGNORECASE)


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Answers go nowhere that was not named."""
        return None


class Endpoint:
    """A model on a server that speaks OpenAI's chat completions."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        meter: Meter,
        *,
        timeout: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Check the address; nothing is sent yet.

        Raises:
            RecipeError: no usable address.
        """
        scheme, host = _address(url)
        self.url = f"{url.rstrip('/')}/chat/completions"
        self.model, self.meter, self.timeout, self.sleep = model, meter, timeout, sleep
        key = key and key.strip()
        self.key = key if scheme == "https" or host in HERE else None
        self.holds_key_back = bool(key) and self.key is None
        self.takes_temperature = True
        self._is_over = False
        self._opener = build_opener(_NoRedirects())

    @property
    def name(self) -> str:
        """Model and host."""
        return f"{self.model} at {urlsplit(self.url).netloc}"

    def ask(self, questions: Mapping[str, str], kept: Kept) -> None:
        """Ask a few at a time; each reply is kept at once.

        Raises:
            ProbeError: the endpoint refuses, or does not answer after several tries.
        """
        self.meter.begin(len(questions))
        names = list(questions)
        self._keep(names[0], questions[names[0]], kept)  # a refusal is told once, not by four
        self.meter.step()
        with ThreadPoolExecutor(PARALLEL) as pool:
            waiting = [pool.submit(self._keep, name, questions[name], kept) for name in names[1:]]
            try:
                for done in as_completed(waiting):
                    done.result()
                    self.meter.step()
            finally:
                self._is_over = True  # of those under way none tries again
                for one in waiting:
                    one.cancel()
        self._is_over = False

    def _keep(self, name: str, question: str, kept: Kept) -> None:
        reply = self._reply(question)
        row = {"id": name, "choice": choice(reply), "reply": shorten(reply, 200)}
        kept.add([{**row, "temperature": 0 if self.takes_temperature else None}])

    def _reply(self, question: str) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
        }
        if self.takes_temperature:
            body["temperature"] = 0
        text = self._post(body)
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise ProbeError(
                f"{self.url}: is no chat completion: {shorten(text, 200)!r}; --judge takes the base "
                f"address, such as https://api.openai.com/v1"
            ) from None
        return content if isinstance(content, str) else ""

    def _post(self, body: dict[str, Any]) -> str:
        for number in range(1, TRIES + 1):
            request = Request(self.url, json.dumps(body).encode(), method="POST")
            request.add_header("Content-Type", "application/json")
            if self.key:
                request.add_unredirected_header("Authorization", f"Bearer {self.key}")
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    return str(answer.read().decode("utf-8", errors="replace"))
            except HTTPError as error:
                told = self._told(error)
                if error.code == 400 and "temperature" in body and "temperature" in told:
                    self.takes_temperature = False  # reasoning models have one of their own
                    return self._post({k: v for k, v in body.items() if k != "temperature"})
                if error.code not in (408, 429) and error.code < 500:
                    raise ProbeError(self._refused(error.code, told)) from None
                problem, wait = f"HTTP {error.code}: {told}", _retry_after(error)
            except (URLError, HTTPException, OSError) as error:
                why = getattr(error, "reason", None) or error
                problem, wait = str(why) or type(why).__name__, None
            if self._is_over:
                break
            if number < TRIES:
                self.sleep(min(LONGEST_WAIT, 2.0 ** (number - 1) if wait is None else wait))
        raise ProbeError(
            f"{self.url}: no answer after {TRIES} tries ({problem}); what was answered is kept, and "
            f"the same command continues"
        )

    def _told(self, error: HTTPError) -> str:
        """What the server says, without the key, should it repeat it."""
        text = ""
        with contextlib.suppress(ValueError, KeyError, TypeError, HTTPException, OSError):
            text = error.read().decode("utf-8", errors="replace")
            text = str(json.loads(text)["error"]["message"])
        return shorten(text.replace(self.key, "***") if self.key else text, 300)

    def _refused(self, status: int, told: str) -> str:
        hint = {
            401: "; set OPENAI_API_KEY",
            403: "; check that OPENAI_API_KEY may use this model",
            404: f"; check the address and --judge-model {self.model}",
        }.get(status, "; redirects are not followed, give the address itself" * (status < 400))
        if status in (401, 403) and self.holds_key_back:
            hint = "; OPENAI_API_KEY is not sent over plain http, give an https address"
        return f"{self.url}: HTTP {status}: {told or 'no reason given'}{hint}"


def _address(url: str) -> tuple[str, str]:
    """Scheme and host; what else stands there may be secret, and is not repeated."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
        is_address = scheme in ("http", "https") and host and not parts.username
    except ValueError:
        scheme, host, is_address = "http", "", False
    if not is_address:
        raise RecipeError(
            f"--judge: {scheme}://{host} is no address of an endpoint; it looks like "
            f"https://api.openai.com/v1, and its key stands in OPENAI_API_KEY"
        )
    return scheme, host


def choice(reply: str) -> str:
    """A or B where a reply is one, alone or in its first or last line; else nothing."""
    lines = [line for line in reply.replace("*", "").splitlines() if line.strip()]
    for line in [*lines[:1], *lines[-1:]]:
        if found := _LETTER.fullmatch(line):
            return found[1].upper()
    return ""


def _retry_after(error: HTTPError) -> float | None:
    """Seconds that the server asks to wait."""
    text = str(error.headers.get("Retry-After") or "")
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
