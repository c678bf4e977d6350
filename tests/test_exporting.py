import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.bundle.verify import verify_bundle
from edgenas.clock.board.settings import TimingSettings
from edgenas.delivery import exporting
from edgenas.delivery.export_request import ExportRequest
from edgenas.delivery.exporting import export
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.images.loading import load_images
from edgenas.model.saved import load_supernet
from edgenas.runtime import registry as runtimes
from edgenas.runtime.trt import TENSORRT_RTX_BUILDER
from edgenas.training.division import split_as_trained

FAST = TimingSettings(baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6)


@pytest.fixture(scope="module")
def bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    request = SpecializeRequest(device="jetson", latency="1s", supernet=str(tiny))
    specialize(request, out=folder)
    return folder


FORMATS = runtimes.export_formats()
TIMED = "onnx onnx-int8 openvino openvino-int8 ncnn tflite tflite-fp16 tflite-int8".split()


def exported(bundle: Path, folder: Path, kind: str, **changes):
    request = ExportRequest(bundle=bundle, to=kind, out=folder / kind, **changes)
    return export(request, settings=FAST)


def absent(kind: str) -> str | None:
    runtime, wanted = FORMATS[kind]
    if runtime.name == "tensorrt":
        return TENSORRT_RTX_BUILDER.why_not_build()
    return runtime.available() if wanted.runs_here else None


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_passes_its_gates_and_has_its_own_rows(
    bundle: Path, photos: Path, tmp_path: Path, kind: str
):
    if why_not := absent(kind):
        pytest.skip(why_not)
    before = {path.name: sha256(path) for path in bundle.iterdir()}
    made = exported(bundle, tmp_path, kind, data=str(photos), allow_accuracy_drop=True)
    told = json.loads((made.folder / "export.json").read_text())
    assert told == made.report
    assert told["files"] == {
        path.name: sha256(path) for path in made.folder.iterdir() if path.name != "export.json"
    }
    parity = told["parity"]
    assert 0 <= parity["max_abs_difference"] <= parity["tolerance"]
    assert told["accuracy"]["images"] == 24
    runtime, wanted = FORMATS[kind]
    timed = kind in TIMED
    assert (told["latency"] is not None) == timed
    if timed:
        assert told["latency"]["precision"] == (wanted.runs_in or wanted.precision)
    if runtime.name == "tensorrt":
        assert (made.folder / "model.engine").stat().st_size > 10_000
    assert {path.name: sha256(path) for path in bundle.iterdir()} == before
    assert all(check.passed for check in verify_bundle(bundle))


def test_the_accuracy_is_that_of_the_file(bundle: Path, photos: Path, tiny: Path, tmp_path: Path):
    made = exported(bundle, tmp_path, "onnx-int8", data=str(photos), allow_accuracy_drop=True)
    trained = load_supernet(tiny)
    _, images = split_as_trained(trained, load_images(str(photos), stored=16))
    session = onnxruntime.InferenceSession(
        made.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    resolution = session.get_inputs()[0].shape[-1]
    inputs = trained.preprocessing.prepare(images.pixels, resolution=resolution)
    runs = [session.run(None, {"image": x[None].numpy()})[0] for x in inputs]
    classes = [int(np.asarray(logits).argmax()) for logits in runs]
    right = (np.array(classes) == images.labels.numpy()).mean()
    assert made.report["accuracy"]["export"] == pytest.approx(right)


@pytest.mark.parametrize("kind", ["onnx", "onnx-fp16", "onnx-int8", "onnx-int8-signed"])
def test_an_open_batch_gives_the_same_as_one_image_after_the_other(
    bundle: Path, tmp_path: Path, kind: str
):
    made = exported(bundle, tmp_path, kind, dynamic_batch=True, allow_accuracy_drop=True)
    path = made.folder / "model.onnx"
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "batch"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sizes = [dim.dim_value for dim in shape.dim][1:]
    x = np.random.default_rng(0).standard_normal((5, *sizes)).astype(np.float32)
    (together,) = session.run(None, {"image": x})
    alone = [np.asarray(session.run(None, {"image": one[None]})[0]) for one in x]
    np.testing.assert_allclose(
        np.asarray(together), np.concatenate(alone), atol=1e-4 if kind != "onnx-fp16" else 2e-2
    )


def test_openvino_reads_its_own_format(bundle: Path, tmp_path: Path):
    openvino = pytest.importorskip("openvino")
    made = exported(bundle, tmp_path, "openvino")
    model = openvino.Core().compile_model(
        made.folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    x = np.load(bundle / "sample_input.npy")
    (found,) = model(x).values()
    np.testing.assert_allclose(found, np.load(bundle / "expected_output.npy"), atol=1e-4)


def test_ncnn_reads_its_own_format(bundle: Path, tmp_path: Path):
    ncnn = pytest.importorskip("ncnn")
    if why_not := runtimes.get("ncnn").available():
        pytest.skip(why_not)
    made = exported(bundle, tmp_path, "ncnn")
    net = ncnn.Net()
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(made.folder / "model.ncnn.param")) == 0
    assert net.load_model(str(made.folder / "model.ncnn.bin")) == 0
    extractor = net.create_extractor()
    x = np.load(bundle / "sample_input.npy")[0]
    extractor.input("in0", ncnn.Mat(x))
    _, found = extractor.extract("out0")
    wanted = np.load(bundle / "expected_output.npy")[0]
    np.testing.assert_allclose(np.array(found), wanted, atol=1e-4)
    assert any("images run one by one" in note for note in made.report["notes"])


# Older ONNX


def test_an_export_is_written_in_the_opset_and_ir_that_are_asked_for(bundle: Path, tmp_path: Path):
    made = exported(bundle, tmp_path, "onnx", opset=13, ir=7)
    model = onnx.load(made.folder / "model.onnx")
    assert [entry.version for entry in model.opset_import] == [13]
    assert model.ir_version == 7
    assert not {node.op_type for node in model.graph.node} & {"HardSwish", "HardSigmoid"}
    assert (made.report["opset"], made.report["ir"]) == (13, 7)
    assert made.report["read_by"] == (
        "ONNX Runtime 1.8 or newer, TensorRT 8.0 or newer, OpenCV's DNN module 4.10 or newer"
    )
    session = onnxruntime.InferenceSession(
        made.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"image": np.load(bundle / "sample_input.npy")})
    np.testing.assert_allclose(found, np.load(bundle / "expected_output.npy"), atol=1e-4)


def test_an_export_is_written_for_a_program(bundle: Path, tmp_path: Path):
    made = exported(bundle, tmp_path, "onnx-fp16", reader="tensorrt-8.2")
    model = onnx.load(made.folder / "model.onnx")
    assert (made.report["opset"], made.report["ir"]) == (13, 7)
    assert "HardSigmoid" in {node.op_type for node in model.graph.node}
    plain = exported(bundle, tmp_path, "onnx")
    assert (plain.report["opset"], plain.report["ir"]) == (20, 10)


@pytest.mark.parametrize(
    ("kind", "asked", "why"),
    [
        ("onnx", {"opset": 12}, "opset must be at least 13, found 12"),
        ("onnx", {"opset": 21}, "opset must be at most 20, found 21"),
        ("onnx", {"ir": 3}, "ir must be at least 7, found 3"),
        ("onnx", {"reader": "caffe"}, "unknown reader 'caffe'"),
        ("onnx", {"reader": "opencv", "ir": 8}, "--ir and --reader both say which ONNX"),
        ("ncnn", {"opset": 13}, "--opset is for the ONNX formats, found --to ncnn"),
    ],
)
def test_versions_of_onnx_that_cannot_be_written_are_refused(
    bundle: Path, tmp_path: Path, kind: str, asked: dict[str, object], why: str
):
    with pytest.raises(EdgenasError, match=why):
        exported(bundle, tmp_path, kind, **asked)
    assert not (tmp_path / kind).exists()


def test_what_a_program_cannot_read_in_any_form_is_refused(
    bundle: Path, photos: Path, tmp_path: Path
):
    with pytest.raises(EdgenasError, match=r"onnx-int8 cannot be written for --reader opencv"):
        exported(bundle, tmp_path, "onnx-int8", data=str(photos), reader="opencv")
    assert not (tmp_path / "onnx-int8").exists()


def test_a_bundle_for_a_jetson_out_of_reach_loads_in_every_tensorrt(bundle: Path):
    model = onnx.load(bundle / "model.onnx")
    assert [entry.version for entry in model.opset_import] == [13]
    assert model.ir_version == 7
    assert "HardSwish" not in {node.op_type for node in model.graph.node}
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "opset 13 and IR 7" in card
    assert "TensorRT 8.0 or newer" in card
    assert "'onnxruntime>=1.16'" in card


# Mistakes


def test_a_loss_of_more_than_a_point_is_refused(
    bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exporting, "LARGEST_DROP", -2.0)
    with pytest.raises(EdgenasError, match=r"onnx-int8 costs .* points of accuracy") as caught:
        exported(bundle, tmp_path, "onnx-int8", data=str(photos))
    assert "--allow-accuracy-drop" in caught.value.hint
    assert not (tmp_path / "onnx-int8").exists()


def test_int8_without_labelled_images_is_refused(bundle: Path, tmp_path: Path):
    with pytest.raises(EdgenasError, match="onnx-int8 needs images with labels"):
        exported(bundle, tmp_path, "onnx-int8")


def test_what_is_in_the_way_stays_unless_it_is_an_export(bundle: Path, tmp_path: Path):
    exported(bundle, tmp_path, "onnx")
    with pytest.raises(EdgenasError, match="holds an export already"):
        exported(bundle, tmp_path, "onnx")
    exported(bundle, tmp_path, "onnx", force=True)
    (tmp_path / "onnx" / "mine.txt").write_text("mine")
    with pytest.raises(EdgenasError, match=r"no part of an export: mine\.txt"):
        exported(bundle, tmp_path, "onnx", force=True)
    assert (tmp_path / "onnx" / "mine.txt").exists()


def test_wrong_words_are_refused(bundle: Path, tmp_path: Path):
    with pytest.raises(EdgenasError, match="unknown format 'onnx-int9'"):
        exported(bundle, tmp_path, "onnx-int9")
    with pytest.raises(EdgenasError, match="no bundle at"):
        exported(tmp_path, tmp_path, "onnx")
    with pytest.raises(EdgenasError, match="unknown supernet 'nobody'"):
        exported(bundle, tmp_path, "onnx", supernet="nobody")
