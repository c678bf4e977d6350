"""``--fit``: how pictures get the shape of inputs, from the option to what a bundle finds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.bundle.manifest import read as read_manifest
from edgenas.clock.board.settings import TimingSettings
from edgenas.delivery.export_request import ExportRequest
from edgenas.delivery.exporting import export
from edgenas.delivery.loading import Bundle, load
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.space.framing import Fit

# Everything passes such a gate: what is tested is the wiring, whatever the machine does meanwhile.
FAST = TimingSettings(baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6)


@pytest.mark.parametrize("fit", [None, "pad", "stretch"])
def test_a_bundle_has_the_accuracy_that_its_own_example_finds(
    tiny: Path, tmp_path: Path, fit: Fit | None
):
    """Of pictures in every shape, read from their files again, one by one."""
    rng, labels, files = np.random.default_rng(5), list[str](), list[Path]()
    y, x = np.mgrid[0:60, 0:60]
    for name, wave in {"across": y, "along": x, "slanted": x + y}.items():
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for i in range(8):
            height, width = rng.integers(14, 60, 2)
            stripes = np.sin(wave[:height, :width] * 0.9 + i)[..., None] * 80 + 128
            pixels = np.clip(stripes + rng.normal(0, 30, (height, width, 3)), 0, 255)
            files.append(tmp_path / "shapes" / name / f"{i}.png")
            Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
            labels.append(name)
    request = SpecializeRequest(
        device="jetson", supernet=str(tiny), test=str(tmp_path / "shapes"), fit=fit
    )
    folder = tmp_path / "bundle"
    record = specialize(request, out=folder).record
    bundle = load(folder)
    assert isinstance(bundle, Bundle)
    found = [bundle.classify(file) for file in files]
    right = sum(one == other for one, other in zip(found, labels, strict=True))
    assert (record.accuracy.value, record.accuracy.images) == (right / 24, 24)
    told = read_manifest(folder)["preprocessing"]
    changed = fit in ("pad", "stretch")
    assert told.get("fit") == (fit if changed else None)
    assert any("has learnt from pictures with fit crop" in n for n in record.notes) == changed
    wanted = ExportRequest(bundle=folder, to="onnx", test=request.test, out=tmp_path / "x")
    made = export(wanted, settings=FAST)
    assert made.report["accuracy"]["bundle"] == record.accuracy.value
