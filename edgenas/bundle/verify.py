"""Check every claim of a bundle again."""

import dataclasses
import functools
import html
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import sha256
from edgenas.basics.units import milliseconds
from edgenas.basics.version import name_build
from edgenas.bundle import example, manifest, signing
from edgenas.bundle.card import model_card
from edgenas.bundle.claim import ClaimCheck
from edgenas.bundle.contents import (
    TRACE_FILE,
    Contents,
    read_contents,
    read_record,
    read_trace,
)
from edgenas.bundle.engines import is_engine_folder
from edgenas.bundle.record import Record
from edgenas.bundle.sample import check_output, check_picture, check_sample, check_tflite
from edgenas.model.export import OperatorCount, operator_counts, read_metadata
from edgenas.space.arch import load_arch
from edgenas.space.cost import cost, total
from edgenas.space.plan import plan
from edgenas.space.presets import space_from_json
from edgenas.space.primitives import primitives

# Files that macOS, Windows, KDE, Vim, Emacs and GNOME's editor put beside others: views,
# thumbnails, resource forks, and copies of edited files.
_LITTER = re.compile(r"\.DS_Store|\._.+|Thumbs\.db|desktop\.ini|\.directory|\..+\.sw[op]|#.+#|.+~")

# NumPy and Pillow raise these for files of another kind. Changed bytes never get that far.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


def verify_bundle(
    folder: Path,
    *,
    page: Callable[[Contents], str] | None = None,
    signers: Path | None = None,
    revoked: Path | None = None,
) -> list[ClaimCheck]:
    """Check every byte of a bundle, whether its parts agree, and its signature if it has one.

    The bytes are checked first. Before they have passed, no file is run or parsed. The list ends
    with the first check that fails.

    Args:
        folder: of the bundle.
        page: generates the text of ``report.html``, to compare the file with it. None: the page is
            not compared.
        signers: file of allowed signers, see `edgenas.bundle.signing`; the bundle must then have
            a signature of one of them. None: a signature of any key passes, if it belongs to the
            manifest.
        revoked: file of keys that nobody should trust any more.

    Returns:
        The checks in order. If all have passed, the bundle is as it was written, and what it says
        of its network is true.

    Raises:
        EdgenasError: there is no bundle in the folder, or there is no file of signers.
    """
    if not (folder / manifest.NAME).is_file():
        manifest.read(folder)  # raises, and says what is missing
    checks: list[ClaimCheck] = []
    signature = signing.check_signature(folder, signers=signers, revoked=revoked)
    try:
        for check in _check_claims(folder, page, signature):
            checks.append(check)
            if not check.passed:
                break
    except EdgenasError as error:
        checks.append(ClaimCheck("contents" if checks else "manifest", False, error.message))
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        checks.append(ClaimCheck("contents", False, f"cannot be read: {reason}"))
    return checks


def _check_claims(
    folder: Path, page: Callable[[Contents], str] | None, signature: signing.Signature
) -> Iterator[ClaimCheck]:
    fields = manifest.read(folder)
    yield ClaimCheck("manifest", True, f"bundle {fields['bundle_id'][:12]}")
    yield ClaimCheck("signature", signature.state != "wrong", signature.detail)
    yield _check_files(folder, fields["files"])
    record = read_record(folder)
    yield _check_promises(record, fields)
    yield _check_request(record, fields["request"])
    if record.weights_json() is not None or "weights" in fields:
        yield _check_weights(record, fields)
    yield _check_arch(folder, fields, record)
    yield _check_graph(folder, fields, record)
    if TRACE_FILE in fields["files"]:
        yield _check_search(folder, fields, record)
        yield _check_page(folder, fields, record, page)
    yield _check_card(folder, fields, record)
    yield _check_example(folder, fields)
    yield check_picture(folder, fields)
    yield check_sample(folder, fields)
    yield check_output(folder, fields)
    if manifest.TFLITE_FILES[0] in fields["files"]:
        yield check_tflite(folder, fields)


def _check_files(folder: Path, expected: dict[str, dict[str, Any]]) -> ClaimCheck:
    unlisted = (manifest.NAME, signing.NAME)  # the manifest cannot hold hashes of these two
    others = {path.name: path for path in folder.iterdir() if path.name not in unlisted}
    for name, fact in expected.items():
        path = others.pop(name, None)
        if path is None:
            return ClaimCheck("files", False, f"{name} is missing")
        if path.is_symlink() or not path.is_file():
            return ClaimCheck("files", False, f"{name} is no plain file")
        if path.stat().st_size != fact["bytes"]:
            detail = f"{name} has {path.stat().st_size} bytes, {fact['bytes']} expected"
            return ClaimCheck("files", False, detail)
        if sha256(path) != fact["sha256"]:
            return ClaimCheck(
                "files", False, f"{name} was changed: its SHA-256 is not the manifest's"
            )
    others = {name: path for name, path in others.items() if not is_engine_folder(path)}
    strangers = sorted(name for name in others if not is_litter(others[name]))
    if strangers:
        return ClaimCheck("files", False, f"{strangers[0]} is no part of the bundle")
    total_bytes = sum(fact["bytes"] for fact in expected.values())
    detail = f"{len(expected)} files, {total_bytes} bytes, SHA-256 as written"
    if others:
        names = ", ".join(sorted(others))
        detail += f"; not looked at, left by a file manager or an editor: {names}"
    return ClaimCheck("files", True, detail)


def is_litter(path: Path) -> bool:
    """Whether a file manager or an editor left a file. Only files of the manifest are opened."""
    return path.is_file() and not path.is_symlink() and _LITTER.fullmatch(path.name) is not None


def _check_promises(record: Record, fields: dict[str, Any]) -> ClaimCheck:
    report = record.to_json()
    if any(report[name] != fields[name] for name in ("promises", "target")):
        return ClaimCheck("promises", False, "report.json and manifest.json tell different ones")
    for promise in record.promises:
        if not promise.holds:
            return ClaimCheck("promises", False, str(promise))
    return ClaimCheck(
        "promises", True, "; ".join(map(str, record.promises)) or "none were asked for"
    )


def _check_request(record: Record, request: dict[str, Any]) -> ClaimCheck:
    """Compare the request with the results, where an option of it shows in them.

    The detail names the other options; only their bytes are checked. A request that leaves the
    precision open has the word ``auto`` in the name of its target.
    """
    target = record.target
    slugs = [target.slug, dataclasses.replace(target, precision="auto").slug]
    promised = sorted(promise.constraint for promise in record.promises)
    reported: dict[str, tuple[Any, ...]] = {
        "device": (target.device,),
        "target": tuple(slugs),
        "constraints": (promised,),
        "supernet": (record.supernet_digest,),
        "seed": (record.seed,),
    }
    checked = [name for name in reported if name in request]
    for name in checked:
        if request[name] not in reported[name]:
            detail = f"{name} is {quote(request[name])}, report.json says {reported[name][0]}"
            return ClaimCheck("request", False, detail)
    others = ", ".join(name for name in request if name not in reported)
    detail = f"{', '.join(checked) or 'nothing'} as reported"
    return ClaimCheck("request", True, detail + (f"; not checked: {others}" if others else ""))


def _check_weights(record: Record, fields: dict[str, Any]) -> ClaimCheck:
    if record.weights_json() != fields.get("weights"):
        return ClaimCheck("weights", False, "report.json and manifest.json tell of different ones")
    retraining = record.retraining
    if retraining is None:
        return ClaimCheck("weights", True, "as in the manifest")
    if not retraining.candidates or retraining.candidates[0].arch_id != fields["arch_id"]:
        return ClaimCheck("weights", False, "the first retrained network is not the one delivered")
    return ClaimCheck("weights", True, str(retraining))


def _check_arch(folder: Path, fields: dict[str, Any], record: Record) -> ClaimCheck:
    space = space_from_json(fields["space"], where="manifest.json: space")
    arch = load_arch(folder / "arch.json")
    space.check(arch)
    if arch.id != fields["arch_id"] or str(arch) != fields["arch_text"]:
        return ClaimCheck(
            "arch", False, f"arch.json is {arch.id}, the manifest's {fields['arch_id']}"
        )
    if len(fields["labels"]) != space.classes:
        detail = f"{len(fields['labels'])} labels for {space.classes} classes"
        return ClaimCheck("arch", False, detail)
    costs = total(space, arch)
    if costs != record.costs:
        return ClaimCheck("arch", False, f"its costs are {costs}, report.json says {record.costs}")
    return ClaimCheck("arch", True, f"{arch.id}: {costs.params} params, as reported")


def _check_graph(folder: Path, fields: dict[str, Any], record: Record) -> ClaimCheck:
    """Compare the convs and linears of the graph with those of the arch, one by one.

    If they agree, so do MACs and params: a batch norm that is folded leaves one of its two
    constants.
    """
    space = space_from_json(fields["space"], where="manifest.json: space")
    arch, onnx = load_arch(folder / "arch.json"), (folder / "model.onnx").read_bytes()
    metadata = read_metadata(onnx)
    if metadata.get("arch_id") != arch.id:
        return ClaimCheck("graph", False, f"model.onnx is of arch {metadata.get('arch_id')}")
    operators = operator_counts(onnx)
    macs, weights = sum(o.macs for o in operators), sum(o.weights for o in operators)
    parts = [part for _, layer in plan(space, arch) for part in primitives(layer)]
    expected = Counter(OperatorCount(part.macs, part.folded) for part in parts if part.weights)
    # A batch norm alone is a factor and a summand, which are two operators.
    alone = [part for part in parts if part.op == "scale"] * 2
    expected.update(OperatorCount(0, part.outputs) for part in alone)
    counted = f"{macs} MACs and {weights} weights counted in model.onnx"
    if (macs, weights) != (record.costs.macs, record.costs.weights):
        detail = f"report.json says {record.costs.macs} and {record.costs.weights}"
        return ClaimCheck("graph", False, f"{counted}, {detail}")
    if Counter(operators) != expected:
        return ClaimCheck("graph", False, f"{counted}, but not in the layers of the arch")
    return ClaimCheck("graph", True, f"{counted}, as reported")


def _check_search(folder: Path, fields: dict[str, Any], record: Record) -> ClaimCheck:
    """Compare the listed layers with those of the arch, and the sum of their times."""
    space = space_from_json(fields["space"], where="manifest.json: space")
    trace, arch = read_trace(folder), load_arch(folder / "arch.json")
    listed = [(layer.name, layer.layer, layer.macs) for layer in trace.layers]
    if listed != [(name, str(layer), cost(layer).macs) for name, layer in plan(space, arch)]:
        return ClaimCheck(
            "search", False, f"{TRACE_FILE} tells of other layers than those of the arch"
        )
    if record.predicted is None:
        return ClaimCheck("search", True, f"{trace.seen} networks seen")
    added = trace.overhead + sum(layer.seconds for layer in trace.layers)
    detail = f"layers add up to {milliseconds(added)}"
    predicted = record.predicted.seconds
    if not math.isclose(added, predicted, rel_tol=1e-6):
        return ClaimCheck("search", False, f"{detail}, {milliseconds(predicted)} are predicted")
    return ClaimCheck("search", True, f"{trace.seen} networks seen; {detail}, as predicted")


def _check_page(
    folder: Path, fields: dict[str, Any], record: Record, page: Callable[[Contents], str] | None
) -> ClaimCheck:
    """Check that the page names the network and its promises, and is as this build makes it."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    parts = [fields["arch_id"], *(promise.constraint for promise in record.promises)]
    missing = [part for part in parts if part not in html.unescape(text)]
    if missing:
        return ClaimCheck("page", False, f"report.html does not say: {missing[0]}")
    if page is None:
        return ClaimCheck("page", True, "tells of this network and its promises, not compared")
    return _compare_generated(
        "page", "report.html", fields, lambda: text == page(read_contents(folder))
    )


def _check_card(folder: Path, fields: dict[str, Any], record: Record) -> ClaimCheck:
    """Check that the card names the network and its promises, and is as this build makes it."""
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    parts = [fields["arch_id"], *(str(promise) for promise in record.promises)]
    missing = [part for part in parts if part not in text]
    if missing:
        return ClaimCheck("card", False, f"MODEL_CARD.md does not say: {missing[0]}")
    onnx = (folder / "model.onnx").read_bytes()
    made = functools.partial(model_card, record, manifest=fields, onnx=onnx)
    return _compare_generated("card", "MODEL_CARD.md", fields, lambda: text == made())


def _check_example(folder: Path, fields: dict[str, Any]) -> ClaimCheck:
    """Check that the programs people will run are those that this build writes."""
    ours = Path(example.__file__).parent
    for name in sorted({"example_litert.py"} & set(fields["files"])):
        if (ours / name).read_bytes() != (folder / name).read_bytes():
            return _compare_generated("example", name, fields, lambda: False)
    return _compare_generated(
        "example",
        "example.py",
        fields,
        lambda: (ours / "example.py").read_bytes() == (folder / "example.py").read_bytes(),
    )


def _compare_generated(
    name: str, file: str, fields: dict[str, Any], same: Callable[[], bool]
) -> ClaimCheck:
    """Compare a generated file with what this build generates.

    A file of another version, or of a checkout with other sources, is not compared.
    """
    theirs, ours = fields["versions"].get("edgenas"), name_build()
    if TRACE_FILE not in fields["files"] or theirs != ours:
        maker = f"edgenas {theirs}" if theirs != ours else "an earlier format"
        return ClaimCheck(name, True, f"not compared: {file} is of {maker}, this is {ours}")
    if not same():
        return ClaimCheck(name, False, f"{file} is not what edgenas {ours} makes of this bundle")
    return ClaimCheck(name, True, f"{file} is as edgenas {ours} makes it")
