"""Where a gradient search stands, in a file: one that was killed goes on to the same result.

The name of the file is the digest of everything that decides the result, so no file belongs to
another search.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from edgenas.trained import load_tensors, save_tensors


def digest(texts: Iterable[str], tensors: Iterable[Tensor]) -> str:
    """SHA-256 over texts and tensors, in order, as hexadecimal digits."""
    found = hashlib.sha256("\n".join(texts).encode())
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class Checkpoint:
    """The state of a gradient search.

    Args:
        path: of the file.
        logits: of the policy.
        adam: their optimiser.
        generator: of all chance.
    """

    def __init__(
        self,
        path: Path,
        *,
        logits: list[Tensor],
        adam: torch.optim.Adam,
        generator: torch.Generator,
    ) -> None:
        self.path = path
        self._logits = logits
        self._adam = adam
        self._generator = generator

    def save(
        self, history: list[dict[str, float]], *, multipliers: list[float], baseline: float | None
    ) -> None:
        """Write the state after a step.

        Args:
            history: of all steps so far.
            multipliers: of the ceilings.
            baseline: of the estimator; None: it has none yet.
        """
        tensors = {
            "history": torch.tensor([[*line.values()] for line in history], dtype=torch.double),
            "multipliers": torch.tensor(multipliers, dtype=torch.double),
            "baseline": torch.tensor([] if baseline is None else [baseline], dtype=torch.double),
            "generator": self._generator.get_state(),
        }
        for i, logits in enumerate(self._logits):
            tensors[f"logits.{i}"] = logits
            for name, value in self._adam.state[logits].items():
                tensors[f"{name}.{i}"] = value
        save_tensors(self.path, tensors)

    def load(
        self, columns: list[str]
    ) -> tuple[list[dict[str, float]], list[float], float | None] | None:
        """The state that was written last: history, multipliers, baseline; None: there is none.

        Args:
            columns: names of the values of a step in the history.

        Raises:
            EdgenasError: the file is damaged.
        """
        if not self.path.exists():
            return None
        tensors = load_tensors(self.path)
        with torch.no_grad():
            for i, logits in enumerate(self._logits):
                logits.copy_(tensors[f"logits.{i}"])
                self._adam.state[logits] = {
                    name: tensors[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq")
                }
        self._generator.set_state(tensors["generator"])
        lines = tensors["history"].tolist()
        history = [dict(zip(columns, line, strict=True)) for line in lines]
        baseline = tensors["baseline"].tolist()
        return history, tensors["multipliers"].tolist(), baseline[0] if baseline else None
