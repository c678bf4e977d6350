"""Web servers of the tests, of which nothing is left when their test ends."""

import functools
import http.server
import socket
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

_PATIENCE = 20.0  # seconds for a reader that neither reads nor leaves


class QuietServer(http.server.ThreadingHTTPServer):
    """Waits for its threads when it closes, and is silent about readers that leave early.

    What a thread prints later belongs to no test.
    """

    daemon_threads = False

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(_PATIENCE)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Gives the files of a folder."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running(server: http.server.HTTPServer) -> Generator[str]:
    """Have a server answer; gives its address, without a slash at the end."""
    with server:
        answering = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        answering.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            answering.join()


def serving_folder(folder: Path) -> AbstractContextManager[str]:
    """Have a server give the files of a folder; a context of its address."""
    handler = functools.partial(QuietHandler, directory=folder)
    return running(QuietServer(("127.0.0.1", 0), handler))
