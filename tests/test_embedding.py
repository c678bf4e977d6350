"""The programs of docs/guides/embedding.md: compiled and run against the sample of a bundle."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

import edgenas

FOLDER = ROOT / "docs" / "guides" / "embedding"
HEADERS = Path("/usr/include/opencv4")
LIBRARIES = ("-lopencv_dnn", "-lopencv_imgcodecs", "-lopencv_imgproc", "-lopencv_core")


def test_the_kotlin_class_reads_fields_that_a_manifest_has(tiny: Path, tmp_path: Path):
    request = edgenas.SpecializeRequest(device="rpi4", latency="20ms", supernet=str(tiny))
    edgenas.specialize(request, out=tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    text = (FOLDER / "Classifier.kt").read_text(encoding="utf-8")
    objects = {"model": manifest["model"], "preprocessing": manifest["preprocessing"]}
    named = set(re.findall(r'get(?:JSONObject|JSONArray)\("(\w+)"\)', text))
    known = {*manifest, *(name for held in objects.values() for name in held)}
    assert {"model", "input_shape", "preprocessing", "mean", "std", "labels"} <= named <= known


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notebook = json.loads((FOLDER / "tour.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "__main__"}
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        exec(compile(cell, f"tour.ipynb, cell {number}", "exec"), space)
    assert (tmp_path / "tour-bundle" / "manifest.json").is_file()
    assert notebook["nbformat"] == 4
    assert all(not c.get("outputs") for c in notebook["cells"])


def opencv_version() -> tuple[int, int]:
    text = (HEADERS / "opencv2" / "core" / "version.hpp").read_text(encoding="utf-8")
    found = [re.search(rf"#define CV_VERSION_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (int(match[1]) for match in found if match)
    return major, minor


@pytest.mark.slow
def test_the_cpp_program_gives_the_answers_of_the_bundle(edgenas, tmp_path: Path):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ here")
    if not (HEADERS / "opencv2" / "dnn.hpp").is_file():
        pytest.skip("OpenCV's DNN module is not here: apt install libopencv-dev")
    bundle, export, program = (tmp_path / name for name in ("bundle", "export", "classify"))
    words = ("--supernet", "mbv3-cifar10", "--latency", "3ms", "--out", bundle)
    done = edgenas("specialize", "--device", "rpi4", *words)
    assert done.code == 0, done.log
    assert (
        edgenas("export", bundle, "--to", "onnx", "--reader", "opencv", "--out", export).code == 0
    )
    words = ["g++", "-O1", "-Wall", "-Wextra", "-Werror", "-std=c++17", f"-I{HEADERS}"]
    words += [str(FOLDER / "classify.cpp"), "-o", str(program), *LIBRARIES]
    subprocess.run(words, check=True, timeout=300)

    def classify(*more: str) -> SimpleNamespace:
        command = [str(program), str(bundle), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return SimpleNamespace(code=done.returncode, out=done.stdout, log=done.stderr)

    model = str(export / "model.onnx")
    sample = classify(model)
    if opencv_version() < (4, 6):
        # Such a version refuses the model or computes something else; the program must say so.
        assert sample.code in (1, 2)
        pytest.skip(
            f"OpenCV {opencv_version()} is older than 4.6, the oldest that edgenas writes for"
        )
    assert sample.code == 0, sample.log
    assert "sample output: as expected" in sample.out
    labels = json.loads((bundle / "manifest.json").read_text())["labels"]
    photo = classify(model, str(bundle / "sample_image.png"))
    assert photo.code == 0, photo.log
    assert [line.split()[1] in labels for line in photo.out.splitlines()] == [True] * 5
