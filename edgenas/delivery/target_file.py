"""The file that a bundle holds for a runtime which reads no ONNX, and where it can be made."""

from edgenas.latency.device import Target
from edgenas.runtime import registry as runtimes


def is_lowered_here(target: Target, *, reachable: bool) -> bool:
    """Whether a network is brought to the precision of its target here, and not on the device.

    That is so on devices at hand, and where the file of the target is made here.
    """
    runtime = runtimes.find(target.runtime)
    if runtime is None or target.precision == "fp32":
        return False
    return reachable or (runtime.bundle_file is not None and not why_no_file(target))


def why_no_file(target: Target) -> str:
    """Why the file of a target cannot be made here; empty: it can, or the target has none."""
    runtime = runtimes.find(target.runtime)
    if runtime is None or runtime.bundle_file is None or runtime.why_not_convert is None:
        return ""
    return runtime.why_not_convert() or ""


def make_file(onnx: bytes, target: Target) -> bytes | None:
    """The file of a target, made of the model that ships; None: there is none, or not here.

    Raises:
        EdgenasError: the network cannot be written in its format.
    """
    runtime = runtimes.find(target.runtime)
    if runtime is None or runtime.bundle_file is None or runtime.convert is None:
        return None
    return None if why_no_file(target) else runtime.convert(onnx, batch=target.batch)


def describe_file(target: Target) -> tuple[str, ...]:
    """Notes about the file of a target: where there is none, its latency cannot be had with it."""
    runtime = runtimes.find(target.runtime)
    if runtime is None:
        return ()
    notes = (runtime.bundle_note,) if runtime.bundle_note else ()
    reason = why_no_file(target)
    if runtime.bundle_file is None or not reason:
        return notes
    what = f"the bundle holds no {runtime.bundle_file.name}, which the target runs"
    if target.precision != "fp32":
        what += f", and its model.onnx is in fp32, not in {target.precision}"
    return (*notes, f"{what}: {reason}; then make the bundle anew")
