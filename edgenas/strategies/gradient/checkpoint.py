"""Where a gradient search stands, in a file: one that was killed goes on to the same result.

The name of the file is the digest of everything that decides the result, so no file belongs to
another search.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from edgenas.model.saved import load_tensors, save_tensors
from edgenas.model.supernet import Supernet
from edgenas.training.state import State


def digest(texts: Iterable[str], tensors: Iterable[Tensor]) -> str:
    """SHA-256 over texts and tensors, in order, as hexadecimal digits."""
    hasher = hashlib.sha256("\n".join(texts).encode())
    for tensor in tensors:
        hasher.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


class Checkpoint:
    """The state of a gradient search.

    Args:
        path: of the file.
        logits: of the policy.
        square: of their gradients, a running mean.
        generator: of all chance.
        weights: the state of their training; None: they are fixed.
    """

    def __init__(
        self,
        path: Path,
        *,
        logits: list[Tensor],
        square: Tensor,
        generator: torch.Generator,
        weights: State[Supernet] | None = None,
    ) -> None:
        self.path = path
        self._logits = logits
        self._square = square
        self._generator = generator
        self._weights = weights

    def save(self, history: list[dict[str, float]]) -> None:
        """Write the state after a step, with the history of all steps so far."""
        tensors = {
            "history": torch.tensor([[*line.values()] for line in history], dtype=torch.double),
            "square": self._square,
            "generator": self._generator.get_state(),
        }
        tensors |= {f"logits.{i}": logits for i, logits in enumerate(self._logits)}
        if self._weights is not None:
            tensors |= self._weights.tensors()
        save_tensors(self.path, tensors)

    def load(self, columns: list[str]) -> list[dict[str, float]] | None:
        """Take up the state that was written last; its history, None: there is none.

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
        if self._weights is not None:
            taken = self._weights.take(tensors, {})
            assert taken, "the name of the file says what it is of"
        self._square.copy_(tensors["square"])
        self._generator.set_state(tensors["generator"])
        lines = tensors["history"].tolist()
        return [dict(zip(columns, line, strict=True)) for line in lines]
