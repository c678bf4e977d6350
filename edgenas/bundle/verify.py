"""Every claim of a bundle, again."""

import html
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.basics.units import milliseconds
from edgenas.bundle import example, manifest
from edgenas.bundle.card import model_card
from edgenas.bundle.contents import TRACE_FILE, read_record, read_trace
from edgenas.bundle.record import Record
from edgenas.model.export import OperatorCount, operator_counts, read_metadata, run_onnx
from edgenas.space.arch import load_arch
from edgenas.space.cost import cost, total
from edgenas.space.plan import plan, primitives
from edgenas.space.presets import space_from_json

# What macOS, Windows, KDE, Vim, Emacs and GNOME's editor leave beside files: views, thumbnails,
# resource forks, and copies of what was edited.
_LITTER = re.compile(r"\.DS_Store|\._.+|Thumbs\.db|desktop\.ini|\.directory|\..+\.sw[op]|#.+#|.+~")

# What numpy and Pillow raise at files of another kind; bytes that were changed are found before.
_UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Check:
    """One claim and whether it holds, with the numbers that say so."""

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def verify_bundle(folder: Path) -> list[Check]:
    """Check a bundle: every byte, and that its parts agree.

    Nothing of a bundle is run, or even parsed, before all its bytes are known to be right; then
    the list ends with the first check that fails.

    Args:
        folder: of the bundle.

    Returns:
        The checks in order. All passed: the bundle is what its maker wrote, and holds what it
        says.

    Raises:
        EdgenasError: there is no bundle in the folder.
    """
    if not (folder / manifest.NAME).is_file():
        manifest.read(folder)  # says what is missing
    done: list[Check] = []
    try:
        for check in _checks(folder):
            done.append(check)
            if not check.passed:
                break
    except EdgenasError as error:
        done.append(Check("contents" if done else "manifest", False, error.message))
    except _UNREADABLE as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        done.append(Check("contents", False, f"cannot be read: {said}"))
    return done


def _checks(folder: Path) -> Iterator[Check]:
    fields = manifest.read(folder)
    yield Check("manifest", True, f"bundle {fields['bundle_id'][:12]}")
    yield _files(folder, fields["files"])
    record = read_record(folder)
    yield _promises(record, fields)
    if record.retraining is not None or "weights" in fields:
        yield _weights(record, fields)
    yield _arch(folder, fields, record)
    yield _graph(folder, fields, record)
    if TRACE_FILE in fields["files"]:
        yield _search(folder, fields, record)
        yield _page(folder, fields, record)
    yield _card(folder, fields, record)
    yield _sample(folder, fields)
    yield _output(folder, fields)


def _files(folder: Path, expected: dict[str, dict[str, Any]]) -> Check:
    found = {path.name: path for path in folder.iterdir() if path.name != manifest.NAME}
    for name, fact in expected.items():
        path = found.pop(name, None)
        if path is None:
            return Check("files", False, f"{name} is missing")
        if path.is_symlink() or not path.is_file():
            return Check("files", False, f"{name} is no plain file")
        if path.stat().st_size != fact["bytes"]:
            detail = f"{name} has {path.stat().st_size} bytes, {fact['bytes']} expected"
            return Check("files", False, detail)
        if sha256(path) != fact["sha256"]:
            return Check("files", False, f"{name} was changed: its SHA-256 is not the manifest's")
    strangers = sorted(name for name in found if not left_by_others(found[name]))
    if strangers:
        return Check("files", False, f"{strangers[0]} is no part of the bundle")
    total_bytes = sum(fact["bytes"] for fact in expected.values())
    detail = f"{len(expected)} files, {total_bytes} bytes, SHA-256 as written"
    if found:
        detail += (
            f"; not looked at, left by a file manager or an editor: {', '.join(sorted(found))}"
        )
    return Check("files", True, detail)


def left_by_others(path: Path) -> bool:
    """Whether a file is what people's file managers and editors leave wherever they look.

    Nothing reads such a file: example.py and this package open the files of the manifest alone.
    """
    return path.is_file() and not path.is_symlink() and _LITTER.fullmatch(path.name) is not None


def _promises(record: Record, fields: dict[str, Any]) -> Check:
    told = record.to_json()
    same = told["promises"] == fields["promises"] and told["target"] == fields["target"]
    if not same:
        return Check("promises", False, "report.json and manifest.json tell different ones")
    for promise in record.promises:
        if not promise.kept:
            return Check("promises", False, str(promise))
    return Check("promises", True, "; ".join(map(str, record.promises)) or "none were asked for")


def _weights(record: Record, fields: dict[str, Any]) -> Check:
    if record.weights_json() != fields.get("weights"):
        return Check("weights", False, "report.json and manifest.json tell of different ones")
    found = record.retraining
    if found is None:
        return Check("weights", True, "as in the manifest")
    if not found.candidates or found.candidates[0].arch_id != fields["arch_id"]:
        return Check("weights", False, "the first retrained network is not the one delivered")
    return Check("weights", True, str(found))


def _arch(folder: Path, fields: dict[str, Any], record: Record) -> Check:
    space = space_from_json(fields["space"], where="manifest.json: space")
    arch = load_arch(folder / "arch.json")
    space.check(arch)
    if arch.id != fields["arch_id"] or str(arch) != fields["arch_text"]:
        return Check("arch", False, f"arch.json is {arch.id}, the manifest's {fields['arch_id']}")
    if len(fields["labels"]) != space.classes:
        detail = f"{len(fields['labels'])} labels for {space.classes} classes"
        return Check("arch", False, detail)
    costs = total(space, arch)
    if costs != record.costs:
        return Check("arch", False, f"its costs are {costs}, report.json says {record.costs}")
    return Check("arch", True, f"{arch.id}: {costs.params} params, as reported")


def _graph(folder: Path, fields: dict[str, Any], record: Record) -> Check:
    """The convs and linears of the graph are those of the arch, one by one.

    So are then its MACs and its params: a folded batch norm leaves one constant of its two.
    """
    space = space_from_json(fields["space"], where="manifest.json: space")
    arch, onnx = load_arch(folder / "arch.json"), (folder / "model.onnx").read_bytes()
    named = read_metadata(onnx)
    if named.get("arch_id") != arch.id:
        return Check("graph", False, f"model.onnx is of arch {named.get('arch_id')}")
    found = operator_counts(onnx)
    macs, weights = sum(f.macs for f in found), sum(f.weights for f in found)
    expected = Counter(
        OperatorCount(part.macs, part.folded)
        for _, layer in plan(space, arch)
        for part in primitives(layer)
        if part.weights
    )
    counted = f"{macs} MACs and {weights} weights counted in model.onnx"
    if (macs, weights) != (record.costs.macs, record.costs.weights):
        detail = f"report.json says {record.costs.macs} and {record.costs.weights}"
        return Check("graph", False, f"{counted}, {detail}")
    if Counter(found) != expected:
        return Check("graph", False, f"{counted}, but not in the layers of the arch")
    return Check("graph", True, f"{counted}, as reported")


def _search(folder: Path, fields: dict[str, Any], record: Record) -> Check:
    """The layers that are told are those of the arch, and their times add up to the prediction."""
    space = space_from_json(fields["space"], where="manifest.json: space")
    trace, arch = read_trace(folder), load_arch(folder / "arch.json")
    told = [(layer.name, layer.layer, layer.macs) for layer in trace.layers]
    if told != [(name, str(layer), cost(layer).macs) for name, layer in plan(space, arch)]:
        return Check("search", False, f"{TRACE_FILE} tells of other layers than those of the arch")
    if record.predicted is None:
        return Check("search", True, f"{trace.seen} networks seen")
    added = trace.overhead + sum(layer.seconds for layer in trace.layers)
    detail = f"layers add up to {milliseconds(added)}"
    predicted = record.predicted.seconds
    if not math.isclose(added, predicted, rel_tol=1e-6):
        return Check("search", False, f"{detail}, {milliseconds(predicted)} are predicted")
    return Check("search", True, f"{trace.seen} networks seen; {detail}, as predicted")


def _page(folder: Path, fields: dict[str, Any], record: Record) -> Check:
    """As for the card: the page is that of the version that made the bundle."""
    text = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    wanted = [fields["arch_id"], *(promise.constraint for promise in record.promises)]
    missing = [part for part in wanted if part not in text]
    if missing:
        return Check("page", False, f"report.html does not say: {missing[0]}")
    return Check("page", True, "tells of this network and its promises")


def _card(folder: Path, fields: dict[str, Any], record: Record) -> Check:
    """The card is written by the version that made the bundle: only its numbers are looked for."""
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    wanted = [fields["arch_id"], *(str(promise) for promise in record.promises)]
    missing = [part for part in wanted if part not in text]
    if missing:
        return Check("card", False, f"MODEL_CARD.md does not say: {missing[0]}")
    same = text == model_card(record, manifest=fields)
    return Check("card", True, "as generated" if same else "of another edgenas version")


def _sample(folder: Path, fields: dict[str, Any]) -> Check:
    x = example.load_image(folder / "sample_image.png", fields["preprocessing"])
    stored = np.load(folder / "sample_input.npy")
    if stored.shape[1:] != x.shape[1:]:
        return Check("preprocessing", False, f"input of shape {stored.shape}, not {x.shape}")
    levels = float(np.abs(stored - x).max()) * min(fields["preprocessing"]["std"]) * 255
    detail = f"sample image to input, largest difference {levels:.2g} of 255 levels"
    return Check("preprocessing", levels <= 1.001, detail)


def _output(folder: Path, fields: dict[str, Any]) -> Check:
    x = np.load(folder / "sample_input.npy")
    expected = np.load(folder / "expected_output.npy")
    if x.dtype != np.float32 or x.shape[0] < 1:
        return Check("output", False, f"sample_input.npy is {x.dtype}, not float32")
    found = run_onnx((folder / "model.onnx").read_bytes(), x)
    if found.shape != expected.shape:
        return Check("output", False, f"logits of shape {found.shape}, not {expected.shape}")
    difference = float(np.abs(found - expected).max())
    limit = fields["parity"]["tolerance"] * max(1.0, float(np.abs(expected).max()))
    same_top1 = bool((found.argmax(1) == expected.argmax(1)).all())
    detail = f"largest difference of a logit {difference:.1e}, limit {limit:.0e}"
    if not same_top1:
        detail += ", another class is the likeliest"
    return Check("output", difference <= limit and same_top1, detail)
