"""The command line. Each verb imports what it needs when it runs, so that --help is quick."""

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from edgenas.basics.errors import EdgenasError, one_line, unknown_name
from edgenas.basics.version import version
from edgenas.cli import (
    bench,
    checking,
    estimating,
    export,
    finding,
    importing,
    learn,
    listing,
    ranking,
    showing,
    specialize,
    timing,
    verify,
)
from edgenas.cli.console import log, print_line

app = typer.Typer(
    name="edgenas",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# What typer raises at a wrong command line, whichever version of click it rests on.
_UsageError: Any = typer.BadParameter.__base__


def _print_version(asked: bool) -> None:
    if asked:
        print_line(f"edgenas {version()}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Fit a network to a device and a budget: train once, measure once, specialise in seconds."""


def _told(name: str, verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that ends with a message and an exit code, never with a traceback."""
    usage = f"edgenas {name} --help shows what there is"

    @functools.wraps(verb)
    def run(*args: Any, **values: Any) -> None:
        try:
            verb(*args, **values)
        except EdgenasError as error:
            _say(error.message, hint=error.hint or usage)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                # The reader of our output went away (edgenas ... | head): nothing to report.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            where = f": {error.filename}" if error.filename else ""
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space" if full else "mend that, or choose another folder,"
            _say(f"{error.strerror or error}{where}", hint=f"{remedy} and run it again")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as interrupt:
            log.print(f"stopped: {str(interrupt) or 'nothing was half-written'}", markup=False)
            raise typer.Exit(130) from None

    return run


def _say(message: str, *, hint: str) -> None:
    """One line, and the next step."""
    log.print(one_line(f"error: {message}"), markup=False, style="red", soft_wrap=True)
    if hint:
        log.print(one_line(f"hint: {hint}"), markup=False, soft_wrap=True)


for group in (
    specialize,
    verify,
    learn,
    timing,
    bench,
    export,
    checking,
    estimating,
    finding,
    showing,
    ranking,
    importing,
    listing,
):
    for name, verb in getattr(group, "VERBS", {}).items():
        app.command(name)(_told(name, verb))
for module in (specialize, verify):
    word = module.__name__.rpartition(".")[2].replace("_", "-")
    app.command(word)(_told(word, module.VERB.command()))


def main() -> None:
    """Run a verb. A user's mistake is one line, a hint and exit code 2; never a traceback."""
    words = sys.argv[1:] or ["--help"]
    verbs = [command.name for command in app.registered_commands if command.name]
    try:
        if not words[0].startswith("-") and words[0] not in verbs:
            raise unknown_name("verb", words[0], names=verbs, listing="edgenas --help")
        code = app(words, prog_name="edgenas", standalone_mode=False)
    except EdgenasError as error:
        _say(error.message, hint=error.hint)
        code = 2
    except _UsageError as error:
        verb = f" {words[0]}" if words[0] in verbs else ""
        message = error.format_message()
        _say(message[:1].lower() + message[1:], hint=f"edgenas{verb} --help shows what there is")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        log.print("stopped", markup=False)
        code = 130
    sys.exit(code)
