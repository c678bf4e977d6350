"""Mutations of files of tensors: safetensors, and the pickles of PyTorch."""

import io
import json
import random
import struct
import zipfile
from typing import Any

import torch

from tools.fuzz.raw import mutated_bytes
from tools.fuzz.trees import Unchanged, json_text, mutated


def mutated_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A file whose header, whose numbers or whose bytes were changed."""
    if isinstance(rng, Unchanged):
        return data
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = rng.randrange(10)
    if kind <= 3:
        text = json_text(mutated(header, rng)).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + body
    if kind <= 6 and "__metadata__" in header:  # our own JSON lies in texts of the metadata
        name = rng.choice(list(header["__metadata__"]))
        try:
            inner = json.loads(header["__metadata__"][name])
        except ValueError:
            inner = header["__metadata__"][name]
        changed = json_text(mutated(inner, rng) if isinstance(inner, dict | list) else "other")
        header["__metadata__"][name] = changed.encode("utf-8", "replace").decode()
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + body
    if kind == 7:  # numbers that are none, where numbers are
        at = rng.randrange(0, max(1, len(body) - 8), 8)
        bad = struct.pack("<d", rng.choice((float("nan"), float("inf"), 1e308, -1e308)))
        return data[: 8 + length] + body[:at] + bad + body[at + 8 :]
    if kind == 8:
        return struct.pack("<Q", rng.choice((0, 1, 2**20, 2**40, 2**63))) + data[8:]
    return mutated_bytes(data, rng)


def mutated_pickle(content: Any, rng: random.Random) -> bytes:
    """A file of PyTorch with other tensors, other names, another nesting or other bytes."""
    changed = dict(content)
    tensors = changed.get("state_dict", changed)
    tensors = dict(tensors)
    name = rng.choice(list(tensors))
    kind = None if isinstance(rng, Unchanged) else rng.randrange(8)
    if kind in (0, 1, 2):
        tensors[name] = _strange(tensors[name], rng)
    elif kind == 3:
        del tensors[name]
    elif kind == 4:
        new = rng.choice(("", "x" * 100_000, "a\x1b[2J", 7, None, ("a", 1)))
        tensors[new] = tensors.pop(name)
    elif kind == 5:
        tensors[name] = rng.choice((None, "text", [1, 2], {"a": 1}, 7, float("nan")))
    changed = {"state_dict": tensors} if "state_dict" in changed else tensors
    if kind == 6:
        changed = rng.choice(([tensors], {"state_dict": [1]}, {}, {"state_dict": {}}, 7, "text"))
    stream = io.BytesIO()
    torch.save(changed, stream, _use_new_zipfile_serialization=rng.random() < 0.8)
    data = stream.getvalue()
    if kind == 7:
        return _rezipped(data, rng) if rng.randrange(2) else mutated_bytes(data, rng)
    return data


def _strange(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    flat = tensor.reshape(-1)
    return rng.choice(
        (
            lambda: torch.full_like(tensor, float("nan"), dtype=torch.float32),
            lambda: torch.full_like(tensor, float("inf"), dtype=torch.float32),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.to(torch.bool),
            lambda: tensor.to(torch.int64),
            lambda: tensor.to(torch.bfloat16),
            lambda: tensor.to_sparse(),
            lambda: tensor.to("meta"),
            lambda: flat[:0],
            lambda: flat[:1].reshape(()),
            lambda: tensor[None],
            lambda: torch.zeros(1).expand(2**36),  # four bytes that unfold to 256 GB
            lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
            lambda: tensor.T if tensor.ndim == 2 else tensor.flip(0),
        )
    )()


def _rezipped(data: bytes, rng: random.Random) -> bytes:
    """The same archive with a member left out, doubled, or swollen."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data[: len(data) // 2]
    source = zipfile.ZipFile(io.BytesIO(data))
    stream = io.BytesIO()
    left_out = rng.choice(source.namelist())
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name in source.namelist():
            if name != left_out:
                made.writestr(name, source.read(name))
            elif rng.randrange(2):
                made.writestr(name, b"\x00" * (64 << 20))
    return stream.getvalue()
