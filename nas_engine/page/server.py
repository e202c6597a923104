"""The page of a run that goes on: served to this machine alone, from what is on disk now."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from nas_engine.errors import ReportError
from nas_engine.page.document import in_script
from nas_engine.page.page import page_data, page_html, rendered_sections, require_plotly
from nas_engine.page.run import Run, glance, stamp

HOST = "127.0.0.1"  # nobody else sees it
PORT = 8377


class Watched:
    """A run folder, read again only when something in it was written.

    Args:
        folder: of the run.

    Raises:
        ReportError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ReportError(f"there is no folder {folder}; give that of a run, which its job makes when it starts.")
        self._lock = threading.Lock()
        self._state, self._run = "", Run(self.folder)

    def now(self) -> tuple[str, Run]:
        """What is in the folder, and a text that changes with it."""
        with self._lock:
            state = stamp(self.folder)  # before reading: what is written meanwhile is read the next time
            if state != self._state:
                self._state, self._run = state, glance(self.folder, patient=True)
            return self._state, self._run


class PageServer(ThreadingHTTPServer):
    """Serves the page of a run on this machine's loopback.

    Args:
        folder: of the run.
        port: to listen on; 0 takes a free one.

    Raises:
        ReportError: there is no such folder, plotly is not installed, or the port cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: str | Path, port: int = PORT) -> None:
        require_plotly()
        self.watched = Watched(folder)
        if not 0 <= port <= 65535:
            raise ReportError(f"port is {port}; give one from 1 to 65535, or 0 for a free one.")
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
            raise ReportError(
                f"port {port} of {HOST} {why}; give another one with --port, or --port 0 for any that is free."
            ) from error

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        return f"http://{HOST}:{self.server_address[1]}/"


def serve(folder: str | Path, port: int = PORT, ready: Callable[[str], None] = print) -> None:
    """Serve the page of a run until interrupted.

    Args:
        folder: of the run.
        port: to listen on; 0 takes a free one.
        ready: is told the address.

    Raises:
        ReportError: as `PageServer`.
    """
    with PageServer(folder, port) as server:
        ready(server.address)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return


class _Handler(BaseHTTPRequestHandler):
    """Two answers: the page, and what has changed since."""

    server: PageServer
    timeout = 20.0  # seconds that a silent client holds a thread

    def do_GET(self) -> None:
        """Answer."""
        # A page of elsewhere whose name points here is refused.
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "open this page by its own address.")
            return
        asked = urlsplit(self.path)
        if asked.path not in ("/", "/data.json"):
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "there is nothing else here.")
            return
        state, run = self.server.watched.now()
        if asked.path == "/":
            self._send(HTTPStatus.OK, "text/html", page_html(run, live=state))
        elif parse_qs(asked.query).get("state") == [state]:
            self._send(HTTPStatus.NO_CONTENT, "application/json", "")
        else:
            data = page_data(run) | {"state": state, "sections": rendered_sections(run)}
            self._send(HTTPStatus.OK, "application/json", in_script(data))

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a request every two seconds is no news."""
