"""A local HTTP server that does what it is told, one answer a request. Example: server.plan.append(Answer(status=404))

Without a plan it is an honest one that honours ranges. It never waits for time to pass, only for `go_on`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """How the server answers one request."""

    status: int | None = None  # None: 200 or 206, as asked; 0: hangs up without an answer
    headers: dict[str, str] = field(default_factory=dict)  # beside the usual ones, or in their place
    body: bytes | None = None  # in place of the content
    first: int | None = None  # of a range: begin there, whatever was asked for
    hold_after: int | None = None  # bytes of the body; then wait for `go_on`
    cut_after: int | None = None  # bytes of the body; then close
    reset: bool = False  # the close loses what is under way (RST)
    tells_length: bool = True


class Server:
    """Serves `content` under any path; `asked` has the Range header of each request in turn, `headers` all of them."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.plan: list[Answer] = []
        self.asked: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self.held, self.go_on = threading.Event(), threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # the client may leave at any time
                    owner._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def url(self, path: str = "file") -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/{path}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.headers.get("Range"))
        self.headers.append(dict(request.headers))
        answer = self.plan.pop(0) if self.plan else Answer()
        if answer.status == 0:
            return
        status, headers, body = self._usual(answer, request.headers.get("Range"))
        headers |= answer.headers
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        begun = 0
        if answer.hold_after is not None:
            request.wfile.write(body[: answer.hold_after])
            begun = answer.hold_after
            self.held.set()
            self.go_on.wait(timeout=120)
        request.wfile.write(body[begun : answer.cut_after])
        if answer.reset:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()

    def _usual(self, answer: Answer, asked: str | None) -> tuple[int, dict[str, str], bytes]:
        size = len(self.content)
        wanted = re.fullmatch(r"bytes=(\d+)-", asked or "")
        status = answer.status or (206 if wanted else 200)
        body, headers = self.content, {"Content-Type": "application/octet-stream"}
        if status == 206 and wanted:
            first = int(wanted[1]) if answer.first is None else answer.first
            body = self.content[first:]
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        elif status >= 300:
            body = b"<html>no</html>"
        body = body if answer.body is None else answer.body
        if answer.tells_length:
            headers["Content-Length"] = str(len(body))
        return status, headers, body
