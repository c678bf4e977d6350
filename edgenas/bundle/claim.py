"""One claim of a bundle, and whether it holds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """One claim of a bundle, whether it holds, and the numbers that show it."""

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"
