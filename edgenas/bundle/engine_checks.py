"""Check the engines in the folder of a bundle (`edgenas.bundle.engines`), byte by byte."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import read_json, sha256
from edgenas.basics.ranges import Id, Length, Words
from edgenas.bundle import signing
from edgenas.bundle.claim import ClaimCheck
from edgenas.bundle.engines import RECORD, SCHEMA, is_engine_folder
from edgenas.bundle.verify import is_litter
from edgenas.runtime.engines import SCHEMA as ENGINE_SCHEMA

_MODEL, _ENGINE, _FACTS = "model.onnx", "model.engine", "model.engine.json"
_Digest = Annotated[str, Length(64, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What is checked of ``export.json``."""

    bundle_id: _Digest
    arch_id: Id
    kind: Id
    files: Mapping[str, _Digest]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is checked of the fingerprint beside an engine."""

    version: Words
    gpu: Words
    model: _Digest
    sha256: _Digest


def check_engines(folder: Path, manifest: Mapping[str, Any]) -> Iterator[ClaimCheck]:
    """Check the engines in the folder of a bundle, one check for each.

    Args:
        folder: of the bundle.
        manifest: of the bundle, whose own checks have passed.
    """
    for path in sorted(folder.iterdir()):
        if not is_engine_folder(path):
            continue
        name = f"engine {path.name}"
        try:
            yield ClaimCheck(name, True, _check_engine(path, manifest, bundle=folder))
        except EdgenasError as error:
            yield ClaimCheck(name, False, error.message)


def _check_engine(path: Path, manifest: Mapping[str, Any], *, bundle: Path) -> str:
    """What is right about an engine, in words.

    Raises:
        EdgenasError: what is wrong.
    """
    record = _read(_Record, path / RECORD, schema=SCHEMA)
    if (record.bundle_id, record.arch_id) != (manifest["bundle_id"], manifest["arch_id"]):
        raise EdgenasError(f"{path.name} was built of another bundle")
    if record.kind != path.name:
        raise EdgenasError(f"{path.name} holds an export to {record.kind}")
    for name, digest in record.files.items():
        file = path / name
        if Path(name).name != name:
            raise EdgenasError(f"{path.name}/{RECORD} names a file elsewhere")
        if file.is_symlink() or not file.is_file():
            raise EdgenasError(f"{path.name}/{file.name} is missing, or no plain file")
        if sha256(file) != digest:
            raise EdgenasError(f"{path.name}/{file.name} was changed: its SHA-256 is another one")
    others = {each.name for each in path.iterdir() if not is_litter(each)}
    if strangers := sorted(others - {RECORD, *record.files}):
        raise EdgenasError(f"{path.name}/{strangers[0]} is no part of the engine")
    if missing := sorted({_MODEL, _ENGINE, _FACTS} - set(record.files)):
        raise EdgenasError(f"{path.name}/{missing[0]} is missing")
    facts = _read(_Facts, path / _FACTS, schema=ENGINE_SCHEMA)
    if (facts.model, facts.sha256) != (record.files[_MODEL], record.files[_ENGINE]):
        raise EdgenasError(f"{path.name}/{_FACTS} is the fingerprint of another engine")
    signed = (bundle / signing.NAME).exists()
    words = f"of this bundle, {len(record.files)} files as written; for {facts.gpu} with TensorRT "
    return words + facts.version + ("; the signature does not cover it" if signed else "")


def _read(kind: type[Any], path: Path, *, schema: str) -> Any:
    """Those fields of a JSON file that are checked."""
    value = read_json(path, schema=schema)
    names = kind.__dataclass_fields__
    return decode(kind, {k: v for k, v in value.items() if k in names}, where=path.name)
