"""A small HTTP proxy before an S3 server that loses requests or answers, holds them back, or ignores conditions, on command."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Action = Literal["pass", "drop request", "drop answer", "hold", "hang", "cut", "ignore condition"]
"""hang: no answer, and the connection stays open, until the proxy ends.
cut: the server gets the head and half of the body; then `on_cut` is called and the connections end.
hold: the client's connection is cut at once, the request goes on when `release` is called.
ignore condition: what stands at the path is removed before the request goes on (the header itself is signed and must stay)."""

Rule = Callable[[str, str], Action]
"""From method and path to what happens."""


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is nothing to print about."""


class S3Proxy:
    """`with S3Proxy(port) as proxy:` and give `proxy.endpoint_url` to the client; `proxy.rule` may be set at any time."""

    def __init__(self, upstream_port: int, remove: Callable[[str], None] | None = None) -> None:
        self._upstream_port = upstream_port
        self._remove = remove
        self.rule: Rule = lambda method, path: "pass"
        self.on_dropped: Callable[[], None] = lambda: None
        """Called when the server has answered and the answer was dropped."""
        self.on_cut: Callable[[], None] = lambda: None
        """Called when the server has half of a request."""
        self._over = threading.Event()
        self.seen: list[tuple[str, str, Action]] = []
        self._held: list[tuple[str, str, dict[str, str], bytes]] = []
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> S3Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def release(self) -> list[int]:
        """Send the held requests now; returns the server's status codes."""
        with self._lock:
            held, self._held = self._held, []
        return [self._forward(*request)[0] for request in held]

    def _cut(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        connection = self._request(method, path, headers)
        try:
            connection.endheaders(body[: len(body) // 2] or None)
            self.on_cut()
        finally:
            connection.close()

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = self._request(method, path, headers)
        try:
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _request(self, method: str, path: str, headers: dict[str, str]) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        return connection

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                action = proxy.rule(self.command, self.path)
                with proxy._lock:
                    proxy.seen.append((self.command, self.path, action))
                if action == "ignore condition" and proxy._remove is not None and "If-None-Match" in self.headers:
                    proxy._remove(self.path)
                if action == "hold":
                    with proxy._lock:
                        proxy._held.append((self.command, self.path, headers, body))
                if action == "hang":
                    proxy._over.wait()
                if action in ("hold", "hang", "drop request"):
                    self.close_connection = True
                    return
                try:
                    if action == "cut":
                        proxy._cut(self.command, self.path, headers, body)
                        self.close_connection = True
                        return
                    status, answered, content = proxy._forward(self.command, self.path, headers, body)
                except OSError:
                    self.close_connection = True
                    return
                if action == "drop answer":
                    proxy.on_dropped()
                    self.close_connection = True
                    return
                self._answer(status, answered, content)

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        return Handler
