"""Write a bundle, complete or not at all."""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_folder, write_json, write_text
from edgenas.basics.version import name_build
from edgenas.bundle import example, manifest, signing
from edgenas.bundle.card import model_card
from edgenas.bundle.claim import ClaimCheck
from edgenas.bundle.contents import TRACE_FILE, Contents, read_record
from edgenas.bundle.engines import is_engine_folder
from edgenas.bundle.record import Record
from edgenas.bundle.trace import Trace
from edgenas.bundle.verify import is_litter, verify_bundle
from edgenas.model.export import Parity, run_onnx
from edgenas.onnx_graph.build import INPUT, OUTPUT
from edgenas.space.arch import Arch, load_arch, save_arch
from edgenas.space.presets import space_to_json
from edgenas.space.space import Space

if TYPE_CHECKING:  # it needs torch, a bundle does not
    from edgenas.images.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleParts:
    """What a bundle is written from.

    Args:
        space: of the arch.
        arch: the network.
        onnx: its model, from ``export.to_onnx``.
        preprocessing: of its images.
        labels: the name of each class, in order.
        record: the results.
        trace: how the search came to them.
        parity: of the model to PyTorch.
        request: what the user asked for, as JSON values; see ``check_output``.
        batch: the batch that the model is made for; None: any.
        tflite: its ``model.tflite``; None: the target does not run one.
    """

    space: Space
    arch: Arch
    onnx: bytes
    preprocessing: "Preprocessing"
    labels: Sequence[str]
    record: Record
    trace: Trace
    parity: Parity
    request: Mapping[str, Any]
    batch: int | None = 1
    tflite: bytes | None = None


def write_bundle(
    folder: Path,
    parts: BundleParts,
    *,
    page: Callable[[Contents], str],
    key: str | None = None,
) -> dict[str, Any]:
    """Write the folder that an app team gets, and verify it before it appears under its name.

    A folder of that name is replaced: call ``check_output`` first.

    Args:
        folder: where; afterwards it is complete, or as it was before.
        parts: what to write.
        page: generates ``report.html``.
        key: the SSH key that signs the bundle, see `edgenas.bundle.signing`; None: no signature.

    Returns:
        The manifest.

    Raises:
        EdgenasError: a promise is broken, the number of labels is not that of the classes, the
            model differs from PyTorch, the parts do not belong together, the key cannot sign, or
            the folder cannot be written.
    """
    _require_sound(parts)
    fields = _manifest_fields(parts)
    record, batch = parts.record, parts.batch
    with new_folder(folder.resolve()) as temporary:
        save_arch(parts.arch, temporary / "arch.json")
        (temporary / "model.onnx").write_bytes(parts.onnx)
        write_json(temporary / "report.json", record.to_json())
        write_json(temporary / TRACE_FILE, parts.trace.to_json())
        contents = Contents(
            space=parts.space, arch=parts.arch, record=record, trace=parts.trace, manifest=fields
        )
        write_text(temporary / "report.html", page(contents))
        write_text(
            temporary / "MODEL_CARD.md",
            model_card(record, manifest=fields, onnx=parts.onnx),
        )
        picture = temporary / "sample_image.png"
        Image.fromarray(sample_image(max(parts.preprocessing.kept))).save(picture)
        x = np.repeat(example.load_image(picture, fields["preprocessing"]), batch or 1, axis=0)
        np.save(temporary / "sample_input.npy", x)
        np.save(temporary / "expected_output.npy", run_onnx(parts.onnx, x))
        shutil.copyfile(example.__file__, temporary / "example.py")
        if parts.tflite is not None:
            (temporary / "model.tflite").write_bytes(parts.tflite)
            beside = Path(example.__file__).with_name("example_litert.py")
            shutil.copyfile(beside, temporary / beside.name)
        complete = manifest.add_hashes(fields, folder=temporary)
        write_text(temporary / manifest.NAME, manifest.to_text(complete))
        if key is not None:
            signing.sign(temporary, key=key)
        _require_intact(temporary, name=str(folder), page=page)
    return complete


def _require_sound(parts: BundleParts) -> None:
    """Refuse parts that break a promise or do not belong together."""
    broken = [str(promise) for promise in parts.record.promises if not promise.holds]
    if broken:
        raise EdgenasError(f"no bundle is made of a network that breaks its budget: {broken[0]}")
    if len(parts.labels) != parts.space.classes:
        raise EdgenasError(
            f"labels must be {parts.space.classes} names, one for each class, "
            f"found {len(parts.labels)}"
        )
    parts.parity.require()
    parts.space.check(parts.arch)


def _manifest_fields(parts: BundleParts) -> dict[str, Any]:
    """The fields of the manifest but the hashes of files and the id."""
    arch, space, batch, report = parts.arch, parts.space, parts.batch, parts.record.to_json()
    fields = {
        "versions": _versions(),
        "arch_id": arch.id,
        "arch_text": str(arch),
        "space": json.loads(json.dumps(space_to_json(space))),
        "model": {
            "input": INPUT,
            "input_shape": [batch or "n", space.inputs, *space.input_size(arch.resolution)],
            "output": OUTPUT,
            "output_shape": [batch or "n", space.classes],
        },
        "preprocessing": manifest.describe_preprocessing(
            parts.preprocessing, resolution=arch.resolution
        ),
        "labels": list(parts.labels),
        "target": report["target"],
        "promises": report["promises"],
        "parity": parts.parity.to_json(),
        "request": json.loads(json.dumps(parts.request)),
    }
    if parts.tflite is not None:
        size = space.input_size(arch.resolution)
        fields["model"]["tflite_input_shape"] = [batch or 1, *size, space.inputs]
    if weights := parts.record.weights_json():
        fields["weights"] = weights
    return fields


def check_output(
    folder: Path, *, request: Mapping[str, Any], force: bool = False
) -> list[ClaimCheck] | None:
    """Check whether a bundle may be written to a folder.

    Args:
        folder: where.
        request: everything that decides what the bundle will be (device, budgets, arch id,
            supernet, seed ...), as JSON values.
        force: replace a bundle that is in the folder, with the engines that were built of it.
            Anything else there is never replaced.

    Returns:
        None if nothing is in the way. Otherwise the folder holds a bundle that answers the same
        request, and these are its checks, all of them passed: there is nothing to do.

    Raises:
        EdgenasError: something else is in the way.
    """
    folder = folder.resolve()
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise EdgenasError(f"--out {folder} is a file", hint="choose another --out")
    inside = [path for path in folder.iterdir() if not is_engine_folder(path)]
    names = {path.name for path in inside if not is_litter(path)}
    own = {*manifest.FILES, *manifest.TFLITE_FILES, manifest.NAME, signing.NAME}
    strangers = sorted(names - own)
    if strangers:
        # Also with force: replacing means deleting, and the user may want to keep this file.
        raise EdgenasError(
            f"--out {folder} holds a file that is no part of a bundle: {strangers[0]}",
            hint="choose another --out, or remove the folder yourself",
        )
    if force or not any(folder.iterdir()):
        return None
    if not (folder / manifest.NAME).is_file():
        raise EdgenasError(
            f"--out {folder} holds parts of a bundle without {manifest.NAME}",
            hint="replace them with --force, or choose another --out",
        )
    checks = verify_bundle(folder)
    failed = next((check for check in checks if not check.passed), None)
    if failed is not None:
        raise EdgenasError(
            f"--out {folder} holds a bundle that is damaged: {failed}",
            hint="replace it with --force, or choose another --out",
        )
    if manifest.read(folder)["request"] != json.loads(json.dumps(request)):
        raise EdgenasError(
            f"--out {folder} holds a bundle that answers another request",
            hint="replace it with --force, or choose another --out",
        )
    return checks


def load_bundle(folder: Path) -> tuple[Arch, Record]:
    """Read the network and the results of a bundle, after all its bytes were checked.

    Raises:
        EdgenasError: there is no bundle, or it is damaged; names the first thing that is.
    """
    _require_intact(folder, name=str(folder))
    return load_arch(folder / "arch.json"), read_record(folder)


def _require_intact(
    folder: Path, *, name: str, page: Callable[[Contents], str] | None = None
) -> None:
    checks = verify_bundle(folder, page=page)
    failed = next((check for check in checks if not check.passed), None)
    if failed is not None:
        raise EdgenasError(f"the bundle {name} is damaged: {failed}", hint="make it anew")


def sample_image(size: int) -> NDArray[np.uint8]:
    """A synthetic photo: soft waves and a disc, wider than high, so that every step has an effect.

    Args:
        size: the longer side of stored images in pixels; the sample is larger.

    Returns:
        RGB, uint8, shape (height, width, 3).
    """
    height, width = 2 * size + 3, 3 * size
    y, x = np.mgrid[0:height, 0:width] / height
    waves = [np.sin((3 + c) * x + (5 - c) * y + c) * 0.4 + 0.5 for c in range(3)]
    image = np.stack(waves, axis=-1)
    image[(x - 0.75) ** 2 + (y - 0.5) ** 2 < 0.08] = (0.9, 0.35, 0.15)
    return np.round(image * 255).astype(np.uint8)


def _versions() -> dict[str, str]:
    others = {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "torch")}
    return {"edgenas": name_build(), "python": platform.python_version(), **others}
