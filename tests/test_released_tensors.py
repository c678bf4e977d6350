"""Files of others in PyTorch's format: plain, finite tensors whose values are in the file."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from edgenas.basics.errors import EdgenasError
from edgenas.model.ofa_weights import released_tensors


def refusal(path: Path) -> str:
    with pytest.raises(EdgenasError) as caught:
        released_tensors(path)
    return caught.value.message


def test_plain_tensors_are_read_as_they_are(tmp_path: Path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "n": torch.tensor(3), "e": torch.ones(0)}
    torch.save({"state_dict": tensors}, tmp_path / "a.pth")
    found = released_tensors(tmp_path / "a.pth")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "'w' must be a plain tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "'w' must be a plain tensor"),
        (
            lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
            "'w' must be a plain tensor",
        ),
        (lambda: torch.eye(3, dtype=torch.complex64), "'w' must be a plain tensor"),
        (lambda: torch.empty(3, device="meta"), "'w' must hold its values"),
        (lambda: torch.zeros(1).expand(1 << 40), "'w' must hold all its values, found"),
        (lambda: torch.tensor([1.0, torch.nan]), "'w' must have finite values"),
        (lambda: torch.tensor([1.0, -torch.inf]), "'w' must have finite values"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_tensors_are_refused(tmp_path: Path, make: Any, message: str):
    torch.save({"w": make()}, tmp_path / "a.pth")
    assert message in refusal(tmp_path / "a.pth")


def test_a_compressed_archive_is_refused_before_it_grows(tmp_path: Path):
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as plain,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.namelist():
            packed.writestr(part, plain.read(part))
    assert "must not be compressed" in refusal(tmp_path / "b.pth")


def test_a_fifo_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "a.pth")
    assert "is no regular file" in refusal(tmp_path / "a.pth")
