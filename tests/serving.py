"""Web servers of the tests, of which nothing is left when their test ends."""

import functools
import http.server
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


class QuietServer(http.server.ThreadingHTTPServer):
    """Waits for its threads when it closes, and is silent about readers that leave early.

    What a thread prints while pytest changes what it captures can end a whole run.
    """

    daemon_threads = False

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
