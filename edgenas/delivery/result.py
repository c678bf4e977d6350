"""What ``specialize`` returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.bundle.record import Record
from edgenas.space.arch import Arch


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came out.

    Args:
        folder: the bundle.
        arch: the network.
        record: its numbers, with their evidence.
        existed: whether an identical bundle was there already and was only verified.
        signed_by: the fingerprint of the key that signed it now; empty where nobody did.
    """

    folder: Path
    arch: Arch
    record: Record
    existed: bool = False
    signed_by: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.result/1",
            "folder": str(self.folder),
            "existed": self.existed,
            "signed_by": self.signed_by or None,
            "arch": self.arch.to_json(),
            "arch_id": self.arch.id,
            "report": self.record.to_json(),
        }
