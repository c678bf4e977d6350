"""Files of weights that others publish: plain, finite tensors by their names, never code."""

import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import check_regular

# Where files keep the weights, beside an optimiser and other things. An average over the training
# comes first: it is what their authors evaluate (timm and torchvision's references do).
_INSIDE = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
# What wrappers put before every name: several GPUs, torch.compile, an average over the training.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER = "n_averaged"  # of AveragedModel, beside the weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, without what wrappers put around or before them.

    Read are PyTorch's files, with ``weights_only=True``, and safetensors. The state dict may stand
    in another dict (``state_dict``, ``model`` ...; an average over the training, ``*_ema``, is
    preferred), and all its names may begin with ``module.``, ``_orig_mod.`` or ``model.``.

    Raises:
        EdgenasError: no file, a damaged one, or one that holds anything but plain, finite tensors.
    """
    content: Any = _load_safetensors(path) if path.suffix == ".safetensors" else _load(path)
    while isinstance(content, Mapping):
        inside = (content.get(key) for key in _INSIDE)
        inner = next((value for value in inside if isinstance(value, Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise EdgenasError(f"{path} must hold a state dict, found {type(content).__name__}")
    tensors: dict[str, Tensor] = {}
    for key, tensor in content.items():
        where = f"{path}: {quote(key)}"
        if not isinstance(tensor, Tensor):
            raise EdgenasError(f"{where} must be a tensor, found {type(tensor).__name__}")
        rule = _broken(tensor)
        if rule:
            raise EdgenasError(f"{where} must {rule}", hint="fetch the file again")
        tensors[str(key)] = tensor
    return _without_prefixes(tensors)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {key: tensor for key, tensor in tensors.items() if key != _COUNTER}
    if not named:
        return tensors
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in named):
            return _without_prefixes({k.removeprefix(prefix): t for k, t in named.items()})
    return named


def _broken(tensor: Tensor) -> str:
    """The rule that a tensor of a file breaks, in words after "must"; empty: none."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return f"be a plain tensor, found {tensor.layout} of {tensor.dtype}"
    if tensor.device.type != "cpu":
        return f"hold its values, found one on {tensor.device}"
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():  # a few bytes, repeated by strides of 0
        return f"hold all its values, found {size} bytes of which the file has fewer"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        return "have finite values, found NaN or infinity"
    return ""


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    check_regular(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise EdgenasError(
            f"{path} is damaged, or is no safetensors file: {error}", hint="fetch it again"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse a file whose parts become more than the file: PyTorch compresses nothing."""
    check_regular(path)
    if not zipfile.is_zipfile(path):
        return  # the format before PyTorch 1.6
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > 2 * path.stat().st_size + (1 << 20):
        raise EdgenasError(f"{path} must not be compressed, its parts become {size} bytes")


def _load(path: Path) -> Any:
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            # What torch thinks of an old kind of storage says nothing to a user; refusals follow.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        MemoryError,
        OSError,
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        struct.error,
        torch.serialization.pickle.PickleError,  # pyright: ignore[reportPrivateImportUsage]
    ):
        raise EdgenasError(
            f"{path} is damaged, or is no PyTorch file of plain tensors",
            hint="fetch it again; files that need code to be run are not read",
        ) from None
