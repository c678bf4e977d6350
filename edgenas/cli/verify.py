"""``edgenas verify``: every claim of a bundle, checked again."""

import typer

from edgenas.basics.errors import one_line
from edgenas.bundle.request import VerifyRequest
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_json, print_line, print_table


def run(request: VerifyRequest, shown: Shown) -> None:
    """Check every claim of a bundle again: hashes, the graph, the numbers, the stored output.

    With --signers, it also checks who made it.
    """
    from edgenas.delivery.verifying import verify

    result = verify(request)
    if shown.json:
        print_json(result.to_json())
    else:
        print_table(
            ("check", "", "found"),
            [(c.name, "ok" if c.passed else "FAILED", c.detail) for c in result.checks],
        )
        who = {
            "good": f"made by {one_line(result.signature.principal)}",
            "absent": "who made it is not known: it is not signed",
        }.get(result.signature.state, "who made it was not checked: --signers FILE")
        verdict = f"every check passed; {who}" if result.passed else "NOT to be trusted"
        print_line(f"{request.bundle}: {verdict}")
    if not result.passed:
        raise typer.Exit(2)


VERB = Verb(run=run, kinds=(VerifyRequest, Shown))
