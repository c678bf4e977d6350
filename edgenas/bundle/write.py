"""Writing a bundle, complete or not at all."""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_folder, write_json, write_text
from edgenas.basics.version import version
from edgenas.bundle import example, manifest, signing
from edgenas.bundle.card import model_card
from edgenas.bundle.contents import TRACE_FILE, Contents, read_record
from edgenas.bundle.record import Record
from edgenas.bundle.trace import Trace
from edgenas.bundle.verify import ClaimCheck, is_litter, verify_bundle
from edgenas.model.export import Parity, run_onnx
from edgenas.onnx_graph.build import INPUT, OUTPUT
from edgenas.space.arch import Arch, load_arch, save_arch
from edgenas.space.presets import space_to_json
from edgenas.space.space import Space

if TYPE_CHECKING:  # it needs torch, a bundle does not
    from edgenas.images.preprocessing import Preprocessing


def write_bundle(
    folder: Path,
    *,
    space: Space,
    arch: Arch,
    onnx: bytes,
    preprocessing: "Preprocessing",
    labels: Sequence[str],
    record: Record,
    trace: Trace,
    page: Callable[[Contents], str],
    parity: Parity,
    request: Mapping[str, Any],
    batch: int | None = 1,
    key: str | None = None,
) -> dict[str, Any]:
    """Write the folder that is handed to an app team, and verify it before it is there.

    What is there already is replaced: ask ``check_out`` first.

    Args:
        folder: where; complete afterwards, or as it was.
        space: of the arch.
        arch: the network.
        onnx: its model, from ``export.to_onnx``.
        preprocessing: of its images.
        labels: the name of each class, in order.
        record: the results.
        trace: how they were found.
        page: writes ``report.html``.
        parity: of the model to PyTorch; the gate must have been passed.
        request: what was asked for, as JSON values; see ``check_out``.
        batch: the batch the model is made for; None: any.
        key: the SSH key that signs it, see `edgenas.bundle.signing`; None: it is not signed.

    Returns:
        The manifest.

    Raises:
        EdgenasError: a promise is broken, labels and classes differ in number, what was given
            does not belong together, the key cannot sign, or the folder cannot be written.
    """
    broken = [str(promise) for promise in record.promises if not promise.holds]
    if broken:
        raise EdgenasError(f"no bundle is made of a network that breaks its budget: {broken[0]}")
    if len(labels) != space.classes:
        raise EdgenasError(f"labels must be {space.classes}, one a class, found {len(labels)}")
    parity.require()
    space.check(arch)
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
        "preprocessing": manifest.describe_preprocessing(preprocessing, resolution=arch.resolution),
        "labels": list(labels),
        "target": record.to_json()["target"],
        "promises": record.to_json()["promises"],
        "parity": parity.to_json(),
        "request": json.loads(json.dumps(request)),
    }
    if weights := record.weights_json():
        fields["weights"] = weights
    with new_folder(folder.resolve()) as made:
        save_arch(arch, made / "arch.json")
        (made / "model.onnx").write_bytes(onnx)
        write_json(made / "report.json", record.to_json())
        write_json(made / TRACE_FILE, trace.to_json())
        told = Contents(space=space, arch=arch, record=record, trace=trace, manifest=fields)
        write_text(made / "report.html", page(told))
        write_text(made / "MODEL_CARD.md", model_card(record, manifest=fields))
        Image.fromarray(sample_image(max(preprocessing.kept))).save(made / "sample_image.png")
        x = example.load_image(made / "sample_image.png", fields["preprocessing"])
        x = np.repeat(x, batch or 1, axis=0)
        np.save(made / "sample_input.npy", x)
        np.save(made / "expected_output.npy", run_onnx(onnx, x))
        shutil.copyfile(example.__file__, made / "example.py")
        signed = manifest.add_hashes(fields, folder=made)
        write_text(made / manifest.NAME, manifest.to_text(signed))
        if key is not None:
            signing.sign(made, key=key)
        _require_intact(made, name=str(folder), page=page)
    return signed


def check_output(
    folder: Path, *, request: Mapping[str, Any], force: bool = False
) -> list[ClaimCheck] | None:
    """Whether a bundle may be written to a folder.

    Args:
        folder: where.
        request: what is asked for: everything that decides what the bundle will be (device,
            budgets, arch id, supernet, seed ...), as JSON values.
        force: replace a bundle that is there. What is no bundle is never replaced.

    Returns:
        None: go on, nothing is in the way. Otherwise the passed checks of a bundle that is there
        already and answers the same request: report it, there is nothing to do.

    Raises:
        EdgenasError: something else is in the way.
    """
    folder = folder.resolve()
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise EdgenasError(f"--out {folder} is a file", hint="choose another --out")
    found = {path.name for path in folder.iterdir() if not is_litter(path)}
    strangers = sorted(found - {*manifest.FILES, manifest.NAME, signing.NAME})
    if strangers:
        # Also with force: replacing means deleting, and this may be anything of the user's.
        raise EdgenasError(
            f"--out {folder} holds what is no part of a bundle: {strangers[0]}",
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
    """The network and the results of a bundle whose bytes are those that were written.

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
    """A synthetic photo: soft waves and a disc, wider than high, so that every step shows.

    Args:
        size: pixels that images are kept at, at most; the sample is larger.

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
    return {"edgenas": version(), "python": platform.python_version(), **others}
