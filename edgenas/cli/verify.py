"""``edgenas verify``: every claim of a bundle, checked again."""

import typer

from edgenas.basics.errors import one_line
from edgenas.bundle.request import VerifyRequest
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_facts, print_json, print_line


def run(request: VerifyRequest, shown: Shown) -> None:
    """Check every claim of a bundle again.

    Hashes, the graph, the numbers, the stored output; with --signers also who made it.
    """
    from edgenas.delivery.verifying import verify

    result = verify(request)
    if shown.json:
        print_json(result.to_json())
    else:
        who = {
            "good": f"made by {one_line(result.signature.principal)}",
            "absent": "who made it is not known: it is not signed",
        }.get(result.signature.state, "who made it was not checked: --signers FILE")
        verdict = f"every check passed; {who}" if result.passed else "NOT to be trusted"
        print_line(f"{request.bundle}: {verdict}")
        print_facts(
            (check.name, f"{'ok' if check.passed else 'FAILED'}: {check.detail}")
            for check in result.checks
        )
    if not result.passed:
        raise typer.Exit(2)


VERB = Verb(run=run, kinds=(VerifyRequest, Shown))
