"""A judge over HTTP: what is sent, what is retried, what is refused, and that it continues."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cpt.errors import ProbeError, RecipeError
from eval.beside.endpoint import TRIES, Endpoint, choice
from eval.beside.kept import Kept
from eval.progress import Meter
from tests.chat_server import Answer, Server, failed, ok


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def judge(server: Server, waits: list[float]) -> Endpoint:
    return Endpoint(server.url, "big", "secret", Meter(None), sleep=waits.append)


def test_a_question_is_one_chat_completion(server: Server, judge: Endpoint, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "replies.jsonl")
    judge.ask({"q": "which?"}, kept)
    ((path, body, headers),) = server.seen
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "big",
        "temperature": 0,
        "messages": [{"role": "user", "content": "which?"}],
    }
    assert headers["Authorization"] == "Bearer secret"
    assert kept.rows == {"q": {"id": "q", "choice": "A", "reply": "A", "temperature": 0}}


def test_many_are_asked_and_each_is_kept(server: Server, judge: Endpoint, tmp_path: Path) -> None:
    server.reply = lambda question: ok("A" if int(question) % 2 else "B")
    kept = Kept(tmp_path / "replies.jsonl")
    judge.ask({f"q{n}": str(n) for n in range(20)}, kept)
    assert {k: row["choice"] for k, row in kept.rows.items()} == {
        f"q{n}": "A" if n % 2 else "B" for n in range(20)
    }
    assert Kept(tmp_path / "replies.jsonl").rows == kept.rows


def test_busy_and_broken_servers_are_asked_again(
    server: Server, judge: Endpoint, waits: list[float], tmp_path: Path
) -> None:
    server.script = [failed(429, "slow", **{"Retry-After": "7"}), failed(500), failed(503)]
    judge.ask({"q": "which?"}, Kept(tmp_path / "k"))
    assert waits == [7.0, 2.0, 4.0]
    assert len(server.seen) == 4


def test_it_gives_up_after_some_tries_and_continues_later(
    server: Server, judge: Endpoint, waits: list[float], tmp_path: Path
) -> None:
    server.script = [ok("B"), *[failed(500, "down")] * 100]
    kept = Kept(tmp_path / "k")
    with pytest.raises(ProbeError, match=f"no answer after {TRIES} tries .HTTP 500: down.*contin"):
        judge.ask({f"q{n}": "which?" for n in range(3)}, kept)
    assert [row["choice"] for row in Kept(tmp_path / "k").rows.values()] == ["B"]
    assert max(waits) == 2.0 ** (TRIES - 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (failed(401, "bad key secret"), "HTTP 401: bad key ...; set OPENAI_API_KEY"),
        (
            failed(404, "no such model"),
            "HTTP 404: no such model; check the address and --judge-mod",
        ),
        (failed(400, "too long"), "HTTP 400: too long$"),
        (
            failed(307, "", Location="http://127.0.0.1:9/v1"),
            "HTTP 307: .*redirects are not followed",
        ),
        ((200, "<html>hello</html>", {}), "is no chat completion: '<html>hello</html>'"),
        ((200, {"choices": []}, {}), "is no chat completion"),
    ],
)
def test_refusals_are_told_at_once(
    server: Server, judge: Endpoint, tmp_path: Path, answer: Answer, message: str
) -> None:
    server.script = [answer]
    with pytest.raises(ProbeError, match=message) as found:
        judge.ask({f"q{n}": "which?" for n in range(5)}, Kept(tmp_path / "k"))
    assert "secret" not in str(found.value)
    assert len(server.seen) == 1


def test_a_model_with_its_own_temperature_is_asked_without_one(
    server: Server, judge: Endpoint, tmp_path: Path
) -> None:
    server.script = [failed(400, "Unsupported value: 'temperature' does not support 0")]
    judge.ask({"q": "which?", "r": "which?"}, Kept(tmp_path / "k"))
    assert ["temperature" in body for _, body, _ in server.seen] == [True, False, False]


def test_no_server_is_an_error_with_its_reason(waits: list[float], tmp_path: Path) -> None:
    judge = Endpoint("http://127.0.0.1:9/v1", "big", None, Meter(None), sleep=waits.append)
    with pytest.raises(ProbeError, match="refused"):
        judge.ask({"q": "which?"}, Kept(tmp_path / "k"))
    assert len(waits) == TRIES - 1


def test_the_key_goes_over_https_or_stays_here() -> None:
    def held(url: str) -> tuple[str | None, bool]:
        judge = Endpoint(url, "big", " secret\n", Meter(None))
        return judge.key, judge.holds_key_back

    assert held("https://api.openai.com/v1") == ("secret", False)
    assert held("http://localhost:8000/v1") == ("secret", False)
    assert held("http://judge.example/v1") == (None, True)
    for url in (
        "ftp://judge.example",
        "https://",
        "https://me:secret@judge.example/v1",
        "http://[x",
    ):
        with pytest.raises(RecipeError) as found:
            Endpoint(url, "big", None, Meter(None))
        assert "me:secret" not in str(found.value)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A", "A"),
        (" b.\n", "B"),
        ("**B**", "B"),
        ("Answer: A", "A"),
        ("The better answer is B.", "B"),
        ("A\n\nBecause it is shorter.", "A"),
        ("<think>\nA is long\n</think>\nB", "B"),
        ("A better answer would be B", ""),
        ("Both", ""),
        ("", ""),
        ("C", ""),
    ],
)
def test_a_reply_is_a_letter_or_unclear(reply: str, letter: str) -> None:
    assert choice(reply) == letter
