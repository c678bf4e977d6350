"""The command line: each verb is the file of its name, imported when it is asked for."""

import errno
import functools
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgenas.basics.errors import EdgenasError, one_line, unknown_name
from edgenas.basics.version import version
from edgenas.cli.console import log, print_line

# In the order of `edgenas --help`.
VERBS = (
    "specialize",
    "verify",
    "train",
    "fit-accuracy",
    "profile",
    "bench",
    "export",
    "check",
    "doctor",
    "estimate",
    "search",
    "predict",
    "report",
    "pareto",
    "proxies",
    "import",
    "import-ofa-table",
    "import-ofa-accuracy",
    "list",
)
# What `edgenas` alone prints.
WELCOME = """\
edgenas finds the most accurate network that keeps a budget on your device.

Five commands to begin with:

  edgenas list devices                               devices that it knows
  edgenas specialize --device jetson --latency 3ms   a network, in a folder
  edgenas verify FOLDER                              every claim, checked again
  edgenas pareto --device jetson                     all that is worth choosing
  edgenas doctor                                     what can be measured here

edgenas --help lists every verb, edgenas VERB --help every option of one.
"""
_COMPLETING = "_EDGENAS_COMPLETE"  # a shell that wants to complete a line sets it
_PLAIN: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}

# What typer raises at a wrong command line, whichever version of click it rests on.
_UsageError: Any = typer.BadParameter.__base__


class _Verbs(TyperGroup):
    """The verbs. Only those that are asked for are imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return [*VERBS]  # list is the module of a verb, once that was imported

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb, or None."""
        return _command(cmd_name) if cmd_name in VERBS else None


app = typer.Typer(name="edgenas", cls=_Verbs, **_PLAIN)  # it completes verbs and options


@functools.cache
def _command(name: str) -> Any:
    """The command of a verb, made from its file."""
    module = importlib.import_module(f"edgenas.cli.{name.replace('-', '_')}")
    alone = typer.Typer(add_completion=False, **_PLAIN)
    alone.command(name)(report_errors(name, module.VERB.command()))
    return typer.main.get_command(alone)


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


def report_errors(name: str, verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that ends with a message and an exit code, never with a traceback."""
    usage = f"edgenas {name} --help shows what there is"

    @functools.wraps(verb)
    def run(*args: Any, **values: Any) -> None:
        try:
            verb(*args, **values)
        except EdgenasError as error:
            _print_error(error.message, hint=error.hint or usage)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                # The reader of our output went away (edgenas ... | head): nothing to report.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            where = f": {error.filename}" if error.filename else ""
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space" if full else "mend that, or choose another folder,"
            _print_error(f"{error.strerror or error}{where}", hint=f"{remedy} and run it again")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as interrupt:
            log.print(f"stopped: {str(interrupt) or 'nothing was half-written'}", markup=False)
            raise typer.Exit(130) from None

    return run


def _print_error(message: str, *, hint: str) -> None:
    """One line, and the next step."""
    log.print(one_line(f"error: {message}"), markup=False, style="red", soft_wrap=True)
    if hint:
        log.print(one_line(f"hint: {hint}"), markup=False, soft_wrap=True)


def _what_is_missing(error: Any) -> str:
    """What an absent argument or option is, in its own words; empty for other mistakes."""
    param: Any = getattr(error, "param", None)
    words = getattr(param, "help", None)
    if not words or not error.format_message().startswith("Missing "):
        return ""
    return f"{param.opts[0]}: {words.rstrip('.')}"


def _load_numpy() -> None:
    """Load NumPy with a BLAS of one thread, unless the user says how many it gets.

    Searches multiply small matrices. The threads of OpenBLAS spin between such products: they take
    several times the processor time and save none. The variable is read when NumPy is loaded, and
    removed afterwards: processes that time networks must not inherit it.
    """
    name = "OPENBLAS_NUM_THREADS"
    if name in os.environ or "numpy" in sys.modules:
        return
    os.environ[name] = "1"
    try:
        importlib.import_module("numpy")
    finally:
        del os.environ[name]


def _escape_unknown_characters() -> None:
    """Write what the encoding of a terminal lacks as an escape, such as the code of a letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run a verb. A user's mistake is one line, a hint and exit code 2; never a traceback."""
    _escape_unknown_characters()
    words, completing = sys.argv[1:], _COMPLETING in os.environ
    if not words and not completing:
        sys.stdout.write(WELCOME)
        sys.exit(0)
    _load_numpy()
    try:
        if not completing and not words[0].startswith("-") and words[0] not in VERBS:
            raise unknown_name("verb", words[0], names=VERBS, listing="edgenas --help")
        code = app(words, prog_name="edgenas", standalone_mode=False)
    except EdgenasError as error:
        _print_error(error.message, hint=error.hint)
        code = 2
    except _UsageError as error:
        verb = f" {words[0]}" if {*words[:1]} & {*VERBS} else ""
        message = error.format_message()
        hint = f"edgenas{verb} --help shows what there is"
        if wanted := _what_is_missing(error):
            hint = f"{wanted}; edgenas{verb} --help shows the rest"
        _print_error(message[:1].lower() + message[1:], hint=hint)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        log.print("stopped", markup=False)
        code = 130
    sys.exit(code)
