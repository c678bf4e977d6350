"""Where a gradient search stands, in a file: one that was killed goes on to the same result.

The name of the file is the digest of everything that decides the result, so no file belongs to
another search.
"""

import hashlib
from collections.abc import Iterable, Mapping
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
        learnt: what learning changes, by name.
        generator: of all chance.
        weights: the state of their training; None: they are fixed.
    """

    def __init__(
        self,
        path: Path,
        *,
        learnt: Mapping[str, Tensor],
        generator: torch.Generator,
        weights: State[Supernet] | None = None,
    ) -> None:
        self.path = path
        self._learnt = learnt
        self._generator = generator
        self._weights = weights

    def save(self, history: list[dict[str, float]]) -> None:
        """Write the state after a step, with the history of all steps so far."""
        tensors = {
            "history": torch.tensor([[*line.values()] for line in history], dtype=torch.double),
            "generator": self._generator.get_state(),
        }
        tensors |= {name: tensor.detach() for name, tensor in self._learnt.items()}
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
            for name, tensor in self._learnt.items():
                tensor.copy_(tensors[name])
        if self._weights is not None:
            taken = self._weights.take(tensors, {})
            assert taken, "the name of the file says what it is of"
        self._generator.set_state(tensors["generator"])
        lines = tensors["history"].tolist()
        return [dict(zip(columns, line, strict=True)) for line in lines]
