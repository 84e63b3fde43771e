"""A local stand-in for an OpenAI-compatible endpoint: says what a test scripts."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]


class Server:
    """Says what a test scripts, and notes what it was sent."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.reply: Callable[[str], Answer] = lambda question: ok("A")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, body, dict(self.headers)))
                if outer.script:
                    status, content, headers = outer.script.pop(0)
                else:
                    status, content, headers = outer.reply(body["messages"][0]["content"])
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def ok(text: str) -> Answer:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}, {}


def failed(status: int, told: str = "no", **headers: str) -> Answer:
    return status, {"error": {"message": told}}, headers
