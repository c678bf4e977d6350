"""``edgenas verify``: every claim of a bundle, checked again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgenas.basics.errors import one_line
from edgenas.basics.options import Option
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_json, print_line, print_table


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """What is checked, and whose signature is required."""

    bundle: Annotated[Path, Option("Folder of the bundle.", positional=True)]
    signers: Annotated[
        Path | None,
        Option("Require a signature by one of these: a file of allowed signers, as for git."),
    ] = None
    revoked: Annotated[Path | None, Option("Keys that are not to be trusted.", needs="signers")] = (
        None
    )


def run(request: VerifyRequest, shown: Shown) -> None:
    """Check every claim of a bundle again: hashes, the graph, the numbers, the stored output.

    With --signers, it also checks who made it.
    """
    from edgenas.bundle.signing import check_signature
    from edgenas.bundle.verify import verify_bundle
    from edgenas.pages.bundle import bundle_page

    checks = verify_bundle(
        request.bundle, page=bundle_page, signers=request.signers, revoked=request.revoked
    )
    signature = check_signature(request.bundle, signers=request.signers, revoked=request.revoked)
    failed = [check for check in checks if not check.passed]
    if shown.json:
        print_json(
            {
                "schema": "edgenas.verification/1",
                "passed": not failed,
                "checks": [
                    {"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks
                ],
                "signature": signature.to_json(),
            }
        )
    else:
        print_table(
            ("check", "", "found"),
            [(c.name, "ok" if c.passed else "FAILED", c.detail) for c in checks],
        )
        who = {
            "good": f"made by {one_line(signature.principal)}",
            "absent": "who made it is not known: it is not signed",
        }.get(signature.state, "who made it was not checked: --signers FILE")
        verdict = "NOT to be trusted" if failed else f"every check passed; {who}"
        print_line(f"{request.bundle}: {verdict}")
    if failed:
        raise typer.Exit(2)


VERB = Verb(run=run, kinds=(VerifyRequest, Shown))
