"""Engines in the folder of a bundle: verify checks every byte of them, and whose they are."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.basics.errors import EdgenasError
from edgenas.bundle import manifest
from edgenas.bundle.engines import engine_formats, is_engine_folder
from edgenas.bundle.request import VerifyRequest
from edgenas.bundle.write import check_output, load_bundle
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.delivery.verifying import Verification, verify
from edgenas.runtime.engines import Fingerprint, save_engine


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    request = SpecializeRequest(device="jetson", latency="1s", supernet=str(tiny))
    specialize(request, out=folder)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def add_engine(bundle: Path, kind: str = "trt-fp16", **changes) -> Path:
    """What ``export`` writes, without a board."""
    folder = bundle / kind
    folder.mkdir()
    model = (bundle / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(model)
    made = Fingerprint(
        runtime="tensorrt",
        version="10.3.0",
        gpu="a board",
        driver="36.4.3",
        precision="fp16",
        batches=(1, 1, 1),
        model=hashlib.sha256(model).hexdigest(),
    )
    save_engine(folder / "model.engine", b"an engine", made=made)
    fields = manifest.read(bundle)
    record = {
        "schema": "edgenas.export/1",
        "bundle_id": fields["bundle_id"],
        "arch_id": fields["arch_id"],
        "kind": kind,
        "notes": [],
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        },
    }
    (folder / "export.json").write_text(json.dumps(record | changes))
    return folder


def checked(bundle: Path) -> Verification:
    return verify(VerifyRequest(bundle=bundle))


@pytest.mark.slow
def test_a_bundle_with_an_engine_is_verified_with_it(bundle):
    before = checked(bundle)
    add_engine(bundle)
    add_engine(bundle, "trt")
    after = checked(bundle)
    assert after.passed
    assert after.checks[:-2] == before.checks
    assert [str(check) for check in after.checks[-2:]] == [
        f"engine {kind}: of this bundle, 3 files as written; for a board with TensorRT 10.3.0"
        for kind in ("trt", "trt-fp16")
    ]
    load_bundle(bundle)  # it is a bundle still
    assert check_output(bundle, request={}, force=True) is None  # and may be replaced as one
    with pytest.raises(EdgenasError, match="answers another request"):
        check_output(bundle, request={"other": 1})


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_fingerprint(folder: Path) -> None:
    facts = folder / "model.engine.json"
    rewrite(facts, model="0" * 64)
    record = json.loads((folder / "export.json").read_text())
    digest = hashlib.sha256(facts.read_bytes()).hexdigest()
    rewrite(folder / "export.json", files=record["files"] | {facts.name: digest})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.engine").write_bytes(b"AN ENGINE"), "model.engine was changed"),
        (lambda f: (f / "model.engine").unlink(), "model.engine is missing, or no plain file"),
        (lambda f: (f / "more").write_text("x"), "trt-fp16/more is no part of the engine"),
        (lambda f: rewrite(f / "export.json", bundle_id="0" * 64), "built of another bundle"),
        (lambda f: rewrite(f / "export.json", kind="trt"), "holds an export to trt"),
        (lambda f: rewrite(f / "export.json", files={}), "is no part of the engine"),
        (
            lambda f: rewrite(f / "export.json", files={"../model.onnx": "0" * 64}),
            "names a file elsewhere",
        ),
        (change_fingerprint, "is the fingerprint of another engine"),
        (lambda f: (f / "export.json").write_text("{"), "export.json"),
    ],
)
def test_an_engine_that_was_changed_is_told(bundle, damage: Callable[[Path], object], words):
    damage(add_engine(bundle))
    found = checked(bundle)
    assert not found.passed
    assert found.checks[-1].name == "engine trt-fp16"
    assert words in found.checks[-1].detail
    load_bundle(bundle)  # its own files are as they were


def test_other_folders_are_no_part_of_a_bundle(bundle):
    assert engine_formats() == ("trt", "trt-fp16", "trt-int8")
    folder = add_engine(bundle)
    assert is_engine_folder(folder)
    (folder / "export.json").unlink()
    assert "trt-fp16 is no part of the bundle" in checked(bundle).checks[-1].detail
    folder.rename(bundle / "mine")
    with pytest.raises(EdgenasError, match="holds a file that is no part of a bundle: mine"):
        check_output(bundle, request={}, force=True)
