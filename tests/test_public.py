"""What `import edgenas` offers: the verbs as functions, imported when they are used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import edgenas
from edgenas.basics.errors import EdgenasError
from edgenas.delivery.loading import Bundle
from edgenas.model.saved import TrainedSupernet


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there_and_says_what_it_does():
    for name in edgenas.__all__:
        assert getattr(edgenas, name).__doc__, name
    assert set(edgenas.__all__) <= set(dir(edgenas))
    assert edgenas.EdgenasError is EdgenasError


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'specialise'"):
        _ = edgenas.specialise  # pyright: ignore[reportAttributeAccessIssue]


def test_the_package_and_its_requests_load_nothing_heavy():
    code = """
import sys, edgenas
assert not [name for name in sys.modules if name.startswith("edgenas.")]
[getattr(edgenas, name) for name in edgenas.__all__ if name.endswith("Request")]
print(sorted({"torch", "scipy", "onnx", "onnxruntime", "matplotlib"} & set(sys.modules)))
"""
    assert run_python(code).strip() == "[]"


def test_a_verb_is_a_function_of_its_request(tiny: Path, tmp_path: Path):
    request = edgenas.SpecializeRequest(device="jetson", latency="1s", supernet=str(tiny))
    result = edgenas.specialize(request, out=tmp_path / "bundle")
    assert edgenas.verify(edgenas.VerifyRequest(bundle=result.folder)).passed

    arch = result.folder / "arch.json"
    predicted = edgenas.predict(edgenas.PredictRequest(device="jetson", arch=arch, space="tiny"))
    assert predicted.network == result.arch
    assert predicted.seconds <= predicted.upper <= 1

    loaded = edgenas.load(result.folder)
    assert isinstance(loaded, Bundle)
    assert (loaded.arch, loaded.record) == (result.arch, result.record)
    sample = result.folder / "sample_image.png"
    logits = loaded.session.logits([sample, sample])
    expected = np.load(result.folder / "expected_output.npy")[0]
    assert logits.shape == (2, len(loaded.labels))
    # Pillow may round the last of 255 levels of a resized pixel in another way.
    np.testing.assert_allclose(logits[0], expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_array_equal(logits[0], logits[1])
    assert loaded.classify(sample) == loaded.labels[int(expected.argmax())]
    with pytest.raises(EdgenasError, match="cannot be read as an image"):
        loaded.classify(arch)


def test_a_supernet_is_loaded_too(tiny: Path, tmp_path: Path):
    assert isinstance(edgenas.load(tiny), TrainedSupernet)
    with pytest.raises(EdgenasError, match="no bundle at"):
        edgenas.load(tmp_path)


def test_requests_are_checked():
    with pytest.raises(EdgenasError, match="either arch or model must be given"):
        edgenas.predict(edgenas.PredictRequest(device="jetson"))
