"""``verify``: every claim of a bundle, checked again, and who made it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.basics.options import check_request
from edgenas.bundle import manifest
from edgenas.bundle.claim import ClaimCheck
from edgenas.bundle.engine_checks import check_engines
from edgenas.bundle.request import VerifyRequest
from edgenas.bundle.signing import Signature, check_signature
from edgenas.bundle.verify import verify_bundle
from edgenas.pages.bundle import bundle_page


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What checking a bundle gave.

    Args:
        folder: the bundle.
        checks: one for each claim, up to the first that hides all others.
        signature: who made the bundle, as far as that can be said.
    """

    folder: Path
    checks: tuple[ClaimCheck, ...]
    signature: Signature

    @property
    def passed(self) -> bool:
        """Whether every claim holds."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.verification/1",
            "passed": self.passed,
            "checks": [
                {"name": c.name, "passed": c.passed, "detail": c.detail} for c in self.checks
            ],
            "signature": self.signature.to_json(),
        }


def verify(request: VerifyRequest) -> Verification:
    """Check every claim of a bundle again: hashes, the graph, the numbers, the stored output.

    Engines that were exported into its folder are checked too.

    Raises:
        EdgenasError: there is no bundle in the folder, or a file of signers cannot be used.
    """
    check_request(request)
    checks = verify_bundle(
        request.bundle, page=bundle_page, signers=request.signers, revoked=request.revoked
    )
    if all(check.passed for check in checks):
        checks += check_engines(request.bundle, manifest.read(request.bundle))
    signature = check_signature(request.bundle, signers=request.signers, revoked=request.revoked)
    return Verification(folder=request.bundle, checks=tuple(checks), signature=signature)
