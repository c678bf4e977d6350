"""The command line. Each verb imports what it needs when it runs, so that --help is quick."""

import errno
import os
import sys

import typer

from edgenas.cli import learn, listing, offer, timing
from edgenas.cli.console import log
from edgenas.errors import EdgenasError

app = typer.Typer(
    name="edgenas",
    help="Fit a network to a device and a budget: train once, measure once, specialise in seconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (offer, learn, timing, listing):
    group.register(app)


def main() -> None:
    """Run a verb. A user's mistake is one line, a hint and exit code 2; never a traceback."""
    try:
        app()
    except EdgenasError as error:
        log.print(f"error: {error.message}", markup=False, style="red")
        if error.hint:
            log.print(f"hint: {error.hint}", markup=False)
        sys.exit(2)
    except OSError as error:
        if error.errno == errno.EPIPE:
            # The reader of our output went away (edgenas ... | head): nothing to report.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        log.print(f"error: {error.strerror}: {error.filename}", markup=False, style="red")
        log.print("hint: free some space or choose another folder, and run it again")
        sys.exit(2)
    except KeyboardInterrupt:
        log.print("stopped; nothing was half-written", markup=False)
        sys.exit(130)
