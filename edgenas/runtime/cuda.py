"""The few calls of the CUDA runtime that an engine needs, without another dependency.

The library comes with the driver's toolkit, with JetPack, or as a wheel beside torch.
"""

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError

_TO_DEVICE, _TO_HOST = 1, 2
_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")


def why_no_cuda() -> str | None:
    """None, or why no CUDA device can be used here."""
    library = _library()
    if library is None:
        return "there is no CUDA runtime (libcudart)"
    count = ctypes.c_int()
    code = library.cudaGetDeviceCount(ctypes.byref(count))
    if code:
        return f"CUDA says: {_message(library, code)}"
    return None if count.value else "CUDA finds no device"


class Cuda:
    """Memory and streams of the current device.

    Raises:
        EdgenasError: there is none.
    """

    def __init__(self) -> None:
        reason = why_no_cuda()
        library = _library()
        if reason or library is None:
            raise EdgenasError(f"no CUDA device can be used here: {reason}")
        self._library = library

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the device; they live as long as the process."""
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
        assert pointer.value is not None
        return pointer.value

    def stream(self) -> int:
        """A new stream."""
        stream = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreate(ctypes.byref(stream)))
        assert stream.value is not None
        return stream.value

    def to_device(self, address: int, value: NDArray[Any]) -> None:
        """Copy an array to an address on the device."""
        self._copy(address, value.ctypes.data, value.nbytes, _TO_DEVICE)

    def to_host(self, value: NDArray[Any], address: int) -> None:
        """Copy from an address on the device into an array."""
        self._copy(value.ctypes.data, address, value.nbytes, _TO_HOST)

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream."""
        self._check(self._library.cudaStreamSynchronize(ctypes.c_void_p(stream)))

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        pointers = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size))
        self._check(self._library.cudaMemcpy(*pointers, kind))

    def _check(self, code: int) -> None:
        if code:
            raise EdgenasError(f"CUDA says: {_message(self._library, code)}")


@functools.cache
def _library() -> ctypes.CDLL | None:
    names = [*_wheels(), *_NAMES, ctypes.util.find_library("cudart") or ""]
    for name in names:
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            library.cudaGetErrorString.restype = ctypes.c_char_p
            return library
    return None


def _wheels() -> list[str]:
    """Paths of the library where it was installed as a wheel."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else spec.submodule_search_locations or []
    found = [path for root in roots for path in sorted(Path(root).glob("*/lib/libcudart.so*"))]
    return [str(path) for path in found]


def _message(library: ctypes.CDLL, code: int) -> str:
    said = library.cudaGetErrorString(code)
    return f"{said.decode(errors='replace') if said else 'an error'} (code {code})"
