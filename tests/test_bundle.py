"""A bundle holds what it says, every byte of it, and runs where edgenas is not."""

import ast
import dataclasses
import importlib.metadata
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from environments import python_with
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edgenas.basics.errors import EdgenasError
from edgenas.basics.version import name_build, version
from edgenas.bundle import example, manifest
from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.card import model_card
from edgenas.bundle.claim import ClaimCheck
from edgenas.bundle.contents import read_contents
from edgenas.bundle.record import (
    MeasuredLatency,
    PredictedLatency,
    Promise,
    Record,
)
from edgenas.bundle.trace import (
    FrontNetwork,
    Improvement,
    LayerTime,
    SearchSummary,
    Trace,
)
from edgenas.bundle.verify import verify_bundle
from edgenas.bundle.write import BundleParts, check_output, load_bundle, sample_image, write_bundle
from edgenas.clock.measure import Measurement
from edgenas.images.preprocessing import Preprocessing, decode_stored
from edgenas.latency.device import Target
from edgenas.model.export import Parity, compared, parity, to_onnx
from edgenas.model.supernet import Supernet
from edgenas.pages.bundle import bundle_page
from edgenas.space.arch import load_arch
from edgenas.space.cost import cost, memory, total
from edgenas.space.plan import plan
from edgenas.space.presets import tiny

PREPROCESSING = Preprocessing(stored=20, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
LABELS = tuple("plane car bird cat deer dog frog horse ship Löwe".split())
REQUEST = {"device": "host", "constraints": ["latency<=2ms"], "seed": 0}
TARGET = Target("host", "onnxruntime", "fp32")


def record(**changes) -> Record:
    costs = total(tiny(), tiny().largest())
    values = {
        "target": TARGET,
        "accuracy": AccuracyRecord(
            kind="predicted",
            value=0.7123,
            data="cifar10",
            split="validation",
            images=5000,
            error=0.0042,
            archs=60,
        ),
        "predicted": PredictedLatency(
            seconds=0.001,
            upper=0.0012,
            confidence=0.95,
            bound="Student-t on 5 networks",
            provenance="measured",
            source="table of 30 layers",
        ),
        "measured": None,
        "promises": (
            Promise(
                constraint="latency<=2ms", value=0.0012, limit=0.002, rests_on="the upper bound"
            ),
        ),
        "costs": costs,
        "memory": memory(costs),
        "supernet": "tiny",
        "notes": ("extrapolated: nothing of this size was published",),
    }
    return Record(**{**values, **changes})


def timed() -> MeasuredLatency:
    measurement = Measurement(
        name="model",
        median=0.00101,
        p10=0.001,
        p90=0.00105,
        n=500,
        half_width=0.003,
        wall_p50=0.0011,
        wall_p95=0.0015,
        wall_n=700,
        flag="",
        canary=0.0002,
    )
    return MeasuredLatency.of(measurement, environment={"cpu": "some", "frequency": None})


def trace() -> Trace:
    """Layers that take the predicted millisecond together."""
    layers = plan(tiny(), tiny().largest())
    times = [
        LayerTime(name=name, layer=str(layer), seconds=9e-4 / len(layers), macs=cost(layer).macs)
        for name, layer in layers
    ]
    best = FrontNetwork(arch_id="a" * 10, arch_text="r8 8[3x1]", accuracy=0.7, latency=0.0009)
    step = Improvement(phase="evolve", evaluations=3, best=0.71)
    return Trace(
        seen=3,
        accuracies=(0.5, 0.6, 0.7),
        latencies=(0.0007, 0.0008, 0.0009),
        front=(best,),
        searches=(
            SearchSummary(name="within", strategy="evolution", evaluations=3, history=(step, step)),
        ),
        layers=tuple(times),
        overhead=1e-4,
    )


def write(
    folder: Path,
    *,
    batch: int | None = 1,
    result: Record | None = None,
    labels: tuple[str, ...] = LABELS,
    agreement: Parity | None = None,
) -> dict:
    space, arch = tiny(), tiny().largest()
    network = Supernet(space).eval().extract(arch)
    onnx = to_onnx(network, preprocessing=PREPROCESSING.to_json(), batch=batch)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return write_bundle(
        folder,
        BundleParts(
            space=space,
            arch=arch,
            onnx=onnx,
            preprocessing=PREPROCESSING,
            labels=labels,
            record=result or record(),
            trace=trace(),
            parity=agreement or parity(network, onnx, images=images),
            request=REQUEST,
            batch=batch,
        ),
        page=bundle_page,
    )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write(folder)
    return folder


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


def failure(folder: Path) -> str:
    """The one line of the check that fails; the others pass."""
    *before, last = verify_bundle(folder)
    assert all(check.passed for check in before)
    assert not last.passed
    assert "\n" not in str(last)
    return str(last)


def resign(folder: Path, **changes) -> None:
    """Write the manifest anew with right hashes: only a check of the contents can still object."""
    fields = {**manifest.read(folder), **changes}
    signed = manifest.add_hashes(fields, folder=folder)
    (folder / manifest.NAME).write_text(manifest.to_text(signed))


# What is in it


def test_a_bundle_is_complete_and_everything_in_it_holds(pristine: Path):
    assert {path.name for path in pristine.iterdir()} == {"manifest.json", *manifest.FILES}
    checks = verify_bundle(pristine)
    names = "manifest signature files promises request arch graph search page card example".split()
    assert [check.name for check in checks] == [*names, "picture", "preprocessing", "output"]
    assert all(check.passed for check in checks), [str(c) for c in checks if not c.passed]


@pytest.mark.parametrize("batch", [3, None])
def test_bundles_of_any_batch_hold(tmp_path: Path, batch: int | None):
    fields = write(tmp_path / "b", batch=batch)
    assert fields["model"]["input_shape"] == [batch or "n", 3, 16, 16]
    assert all(check.passed for check in verify_bundle(tmp_path / "b"))
    assert run_example(tmp_path / "b", sys.executable).returncode == 0


def test_logits_of_integers_may_be_off_by_more_than_one(tmp_path: Path):
    # By as much as the largest of them, see `edgenas.model.export.LOWER`.
    logits, rounded = np.array([[11.5, -2.0]]), np.array([[8.3, -1.0]])
    write(tmp_path / "bundle", agreement=compared(rounded, logits, precision="int8"))
    assert manifest.read(tmp_path / "bundle")["parity"]["tolerance"] == 11.5
    assert all(check.passed for check in verify_bundle(tmp_path / "bundle"))
    # And by no more, however large they are.
    stored = np.load(tmp_path / "bundle" / "expected_output.npy")
    for off, holds in ((11.0, True), (12.0, False)):
        moved = stored.copy()
        moved[:, int(stored[0].argmax())] += off
        np.save(tmp_path / "bundle" / "expected_output.npy", moved)
        resign(tmp_path / "bundle")
        checks = {check.name: check.passed for check in verify_bundle(tmp_path / "bundle")}
        assert checks["output"] is holds


def test_the_manifest_says_how_to_use_the_model(pristine: Path):
    fields = manifest.read(pristine)
    assert tuple(fields["labels"]) == LABELS
    assert fields["target"] == dataclasses.asdict(TARGET)
    assert fields["request"] == REQUEST
    told = fields["preprocessing"]
    assert told["resize"] == [20, 16]
    assert (told["channel_order"], told["layout"], told["dtype"]) == ("RGB", "NCHW", "float32")
    assert told["scale"] == 1 / 255
    assert (told["mean"], told["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    assert "bilinear" in told["interpolation"]
    assert "centre square" in told["crop"]


def test_what_was_written_is_read_again(pristine: Path):
    arch, found = load_bundle(pristine)
    assert arch == tiny().largest()
    assert found == record()


def test_writing_again_gives_the_same_bundle(pristine: Path, tmp_path: Path):
    assert write(tmp_path / "b")["bundle_id"] == manifest.read(pristine)["bundle_id"]


def test_the_sample_goes_through_every_step(pristine: Path):
    """The steps of the example are those of training: decode, crop, resize twice, normalise."""
    path = pristine / "sample_image.png"
    with Image.open(path) as image:
        assert image.width > image.height > max(PREPROCESSING.kept)
    theirs = as_in_training(path, PREPROCESSING)
    ours = np.load(pristine / "sample_input.npy")
    assert ours.shape == (1, 3, 16, 16)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs)


def as_in_training(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    pixels = torch.tensor(decode_stored(path.read_bytes(), stored=preprocessing.stored))
    return preprocessing.prepare(pixels.permute(2, 0, 1)[None], resolution=16).numpy()


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_what_training_refuses_the_example_refuses(tmp_path: Path, kind: type):
    path = tmp_path / "scan.tif"
    Image.fromarray(np.arange(400).reshape(20, 20).astype(kind)).save(path)
    told = manifest.describe_preprocessing(PREPROCESSING, resolution=16)
    for read in (
        lambda: example.load_image(path, told),
        lambda: as_in_training(path, PREPROCESSING),
    ):
        with pytest.raises(ValueError, match="more than 8 bits"):
            read()


def test_sample_images_use_the_range_of_values():
    for size in (8, 32, 224):
        image = sample_image(size)
        assert image.shape == (2 * size + 3, 3 * size, 3)
        assert image.std(axis=(0, 1)).min() > 20


# Every byte counts


@pytest.mark.parametrize("name", ["manifest.json", *manifest.FILES])
def test_one_flipped_byte_fails(bundle: Path, name: str):
    path = bundle / name
    data = path.read_bytes()
    places = {0, 1, len(data) - 1, *range(0, len(data), max(1, len(data) // 23))}
    for place in sorted(places):
        for bits in (1, 32, 128):
            changed = bytearray(data)
            changed[place] ^= bits
            path.write_bytes(changed)
            assert name in failure(bundle), f"byte {place} ^ {bits}"
    path.write_bytes(data)
    assert all(check.passed for check in verify_bundle(bundle))


def test_any_byte_of_the_manifest_counts(bundle: Path):
    path = bundle / "manifest.json"
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        flipped = data[place] ^ (1 << place % 8)
        path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        with pytest.raises(EdgenasError):
            manifest.read(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: json.dumps(json.loads(text), indent=2) + "\n",
        lambda text: text.replace('"seed": 0', '"seed": -0'),
        lambda text: text.replace('"seed": 0', '"seed": 0.0'),
        lambda text: text.replace('"seed": 0', '"seed": NaN'),
        lambda text: text.replace("L\\u00f6we", "L\\u00F6we"),
        lambda text: text.replace("L\\u00f6we", "Löwe"),
        lambda text: text.replace('"seed": 0', '"seed": 1, "seed": 0'),
        lambda text: "[" * 100_000,
        lambda text: "",
    ],
)
def test_another_way_to_write_the_manifest_fails(bundle: Path, change):
    path = bundle / "manifest.json"
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_bytes(text.encode())
    assert failure(bundle) == (f"manifest: {path} was changed or damaged after it was written")


@pytest.mark.parametrize("name", manifest.FILES)
def test_truncated_and_missing_files_fail(bundle: Path, name: str):
    path = bundle / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    expected = f"files: {name} has {len(data) // 2} bytes, {len(data)} expected"
    assert failure(bundle) == expected
    path.unlink()
    assert failure(bundle) == f"files: {name} is missing"


def test_what_does_not_belong_there_fails(bundle: Path):
    (bundle / "more.txt").write_text("more")
    assert failure(bundle) == "files: more.txt is no part of the bundle"


def test_a_link_in_place_of_a_file_fails(bundle: Path, tmp_path: Path):
    shutil.move(bundle / "model.onnx", tmp_path / "model.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "model.onnx")
    assert failure(bundle) == "files: model.onnx is no plain file"


def test_no_bundle_is_said_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "file"):
        with pytest.raises(EdgenasError, match=r"no bundle at .*: there is no manifest.json"):
            verify_bundle(path)


def test_another_version_of_the_format_is_refused(bundle: Path):
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace("edgenas.bundle/2", "edgenas.bundle/4"))
    assert "must have schema 'edgenas.bundle/2', found 'edgenas.bundle/4'" in failure(bundle)


# Bytes as written, but the contents do not agree: a bundle that was put together wrongly


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_report_with_other_costs_fails(bundle: Path):
    change_json(bundle / "report.json", lambda value: value["costs"].update(macs=1))
    resign(bundle)
    assert failure(bundle).startswith("arch: its costs are Cost(macs=")


def test_a_report_with_other_promises_fails(bundle: Path):
    change_json(bundle / "report.json", lambda value: value["promises"].clear())
    resign(bundle)
    assert failure(bundle) == "promises: report.json and manifest.json tell different ones"


def test_a_broken_promise_fails(bundle: Path):
    change_json(bundle / "report.json", lambda value: value["promises"][0].update(limit=0.001))
    resign(bundle, promises=json.loads((bundle / "report.json").read_text())["promises"])
    assert failure(bundle).startswith("promises: latency<=2ms: BROKEN, 120% of it used")


def test_a_report_of_another_shape_fails(bundle: Path):
    change_json(bundle / "report.json", lambda value: value["costs"].update(flops=1))
    resign(bundle)
    assert failure(bundle) == "contents: report.json: costs: unknown field 'flops'"


def test_a_search_of_other_layers_fails(bundle: Path):
    change_json(bundle / "search.json", lambda value: value["layers"].pop())
    resign(bundle)
    assert failure(bundle) == "search: search.json tells of other layers than those of the arch"


def test_layers_that_do_not_add_up_to_the_prediction_fail(bundle: Path):
    change_json(bundle / "search.json", lambda value: value.update(overhead=2e-4))
    resign(bundle)
    assert failure(bundle) == "search: layers add up to 1.10 ms, 1.00 ms are predicted"


def test_a_page_of_another_network_fails(bundle: Path):
    path = bundle / "report.html"
    path.write_text(path.read_text().replace(tiny().largest().id, "b" * 10))
    resign(bundle)
    assert failure(bundle) == f"page: report.html does not say: {tiny().largest().id}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"front": 3}, "search.json: front must be a list, found 3"),
        ({"latencies": [1]}, "search.json: there must be as many latencies as accuracies"),
        ({"overhead": "much"}, "search.json: overhead must be a number, found 'much'"),
        ({"searches": [{}]}, "search.json: searches[0]: the field 'name' is missing"),
    ],
)
def test_a_search_of_another_shape_fails(bundle: Path, change: dict, error: str):
    change_json(bundle / "search.json", lambda value: value.update(change))
    resign(bundle)
    assert failure(bundle) == f"contents: {error}"


def test_bundles_of_the_first_format_are_still_read():
    old = Path(__file__).parent / "data" / "bundle-1"
    assert manifest.NAME in {path.name for path in old.iterdir()}
    assert not (old / "search.json").exists()
    checks = verify_bundle(old)
    assert all(check.passed for check in checks), [str(c) for c in checks if not c.passed]
    assert load_bundle(old) == (tiny().largest(), record())
    assert "Promises" in bundle_page(read_contents(old))


def test_another_arch_fails(bundle: Path):
    change_json(bundle / "arch.json", lambda value: value.update(resolution=12))
    resign(bundle)
    assert failure(bundle).startswith("arch: arch.json is ")


def test_a_model_of_another_arch_fails(bundle: Path):
    network = Supernet(tiny()).eval().extract(tiny().smallest())
    data = to_onnx(network, preprocessing={})
    (bundle / "model.onnx").write_bytes(data)
    resign(bundle)
    assert failure(bundle) == f"graph: model.onnx is of arch {tiny().smallest().id}"
    arch = tiny().largest()
    renamed = to_onnx(network, preprocessing={}, metadata={"arch_id": arch.id})
    (bundle / "model.onnx").write_bytes(renamed)
    resign(bundle)
    costs = total(tiny(), tiny().smallest())
    assert failure(bundle).startswith(f"graph: {costs.macs} MACs and {costs.weights} weights")


@pytest.mark.parametrize("name", ["sample_input.npy", "expected_output.npy", "sample_image.png"])
@pytest.mark.parametrize(
    "data", [b"", b"other", b"\x93NUMPY\x01", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04 no archive"]
)
def test_files_of_another_kind_fail(bundle: Path, name: str, data: bytes):
    (bundle / name).write_bytes(data)
    resign(bundle)
    assert failure(bundle).startswith("contents: cannot be read: ")


def test_a_sample_that_is_no_number_fails(bundle: Path):
    path = bundle / "sample_input.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    resign(bundle)
    assert failure(bundle) == "preprocessing: sample_input.npy holds what is no finite number"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"labels": 3}, "labels must be a list, found 3"),
        ({"labels": [3] * 10}, "labels[0] must be a text, found 3"),
        ({"space": []}, "space must be an object, found []"),
        ({"model": {}}, "model: the field 'input' is missing"),
        ({"parity": {"n": 1}}, "parity: the field 'max_abs_difference' is missing"),
    ],
)
def test_a_manifest_of_another_shape_fails(bundle: Path, change: dict, error: str):
    resign(bundle, **change)
    assert failure(bundle) == f"manifest: {bundle / 'manifest.json'}: {error}"


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("resize", [20, [16, 0]], "[1][1] must be at least 1 pixel, found 0"),
        ("resize", [20], " must have 2 items, found [20]"),
        ("resize", [20, 10**9], "[1] must be at most 16384 pixels, found 1000000000"),
        ("std", [0.2, 0.3, 0], "[2] must be at least 1e-06, found 0"),
        ("mean", "grey", " must be a list, found 'grey'"),
    ],
)
def test_preprocessing_that_cannot_be_done_fails(bundle: Path, name: str, values, error: str):
    steps = {**manifest.read(bundle)["preprocessing"], name: values}
    resign(bundle, preprocessing=steps)
    where = f"manifest: {bundle / 'manifest.json'}: preprocessing.{name}"
    assert failure(bundle) == f"{where}{error}"


def test_other_weights_fail(bundle: Path):
    network = Supernet(tiny(), seed=1).eval().extract(tiny().largest())
    (bundle / "model.onnx").write_bytes(to_onnx(network, preprocessing={}))
    resign(bundle)
    assert failure(bundle).startswith("output: largest difference of a logit ")


def test_a_model_that_is_none_fails(bundle: Path):
    (bundle / "model.onnx").write_bytes(b"none")
    resign(bundle)
    assert failure(bundle).startswith("contents: the ONNX model is damaged or no ONNX file")


def test_another_sample_fails(bundle: Path):
    image = Image.open(bundle / "sample_image.png").transpose(Image.Transpose.ROTATE_90)
    image.save(bundle / "sample_image.png")
    resign(bundle)
    assert failure(bundle).startswith("preprocessing: sample image to input, largest difference")


def test_a_card_without_the_promise_fails(bundle: Path):
    card = bundle / "MODEL_CARD.md"
    card.write_bytes(card.read_bytes().replace(b"latency<=2ms", b"latency<=1ms"))
    resign(bundle)
    assert failure(bundle).startswith("card: MODEL_CARD.md does not say: latency<=2ms: kept")


def test_labels_that_are_not_the_classes_fail(bundle: Path):
    resign(bundle, labels=list(LABELS[:-1]))
    assert failure(bundle) == "arch: 9 labels for 10 classes"


# Nothing is half-written, nothing of others is lost


def test_a_free_folder_may_be_written(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "a/b/c", tmp_path / "empty"):
        for force in (False, True):
            assert check_output(path, request=REQUEST, force=force) is None


def test_an_identical_bundle_is_verified(bundle: Path):
    checks = check_output(bundle, request=REQUEST)
    assert checks is not None
    assert checks == verify_bundle(bundle)
    assert check_output(bundle, request=REQUEST, force=True) is None


def test_a_bundle_of_another_request_is_refused(bundle: Path):
    with pytest.raises(EdgenasError, match="a bundle that answers another request") as caught:
        check_output(bundle, request={**REQUEST, "seed": 1})
    assert "--force" in caught.value.hint
    assert check_output(bundle, request={**REQUEST, "seed": 1}, force=True) is None


def test_a_damaged_bundle_is_refused_and_may_be_replaced(bundle: Path):
    (bundle / "model.onnx").unlink()
    with pytest.raises(EdgenasError, match=r"is damaged: files: model.onnx is missing"):
        check_output(bundle, request=REQUEST)
    with pytest.raises(EdgenasError, match=r"is damaged: files: model.onnx is missing"):
        load_bundle(bundle)
    assert check_output(bundle, request=REQUEST, force=True) is None
    write(bundle)
    assert check_output(bundle, request=REQUEST)


def test_remains_without_a_manifest_are_refused_and_may_be_replaced(bundle: Path):
    (bundle / "manifest.json").unlink()
    with pytest.raises(EdgenasError, match=r"holds parts of a bundle without manifest.json"):
        check_output(bundle, request=REQUEST)
    assert check_output(bundle, request=REQUEST, force=True) is None


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_replaced(bundle: Path, force: bool):
    (bundle / "thesis.tex").write_text("years of work")
    with pytest.raises(EdgenasError, match=r"holds a file that is no part of a bundle: thesis.tex"):
        check_output(bundle, request=REQUEST, force=force)
    with pytest.raises(EdgenasError, match="is a file"):
        check_output(bundle / "thesis.tex", request=REQUEST, force=force)


def test_a_broken_promise_is_not_delivered(tmp_path: Path):
    broken = Promise(constraint="macs<=1K", value=2000.0, limit=1000.0, rests_on="exact count")
    with pytest.raises(EdgenasError, match="breaks its budget: macs<=1K: BROKEN, 200%"):
        write(tmp_path / "b", result=record(promises=(broken,)))
    assert not any(tmp_path.iterdir())


def test_a_number_that_is_none_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "b", result=record(memory=math.nan))
    assert not any(tmp_path.iterdir())


def test_what_does_not_belong_together_is_not_delivered(tmp_path: Path):
    costs = total(tiny(), tiny().smallest())
    with pytest.raises(EdgenasError, match=r"is damaged: arch: its costs are Cost\(macs="):
        write(tmp_path / "b", result=record(costs=costs))
    assert not any(tmp_path.iterdir())


def test_labels_must_be_the_classes(tmp_path: Path):
    with pytest.raises(EdgenasError, match="labels must be 10 names, one for each class, found 9"):
        write(tmp_path / "b", labels=LABELS[:-1])


# The record and its words


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"measured": timed(), "predicted": None},
        {"promises": (), "notes": ()},
        {"accuracy": AccuracyRecord.of(correct=93, images=100, data="photos", split="test")},
    ],
)
def test_a_record_survives_json(changes: dict):
    value = record(**changes)
    assert Record.from_json(json.loads(json.dumps(value.to_json()))) == value


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("accuracy.value", "high", "report: accuracy.value must be a number, found 'high'"),
        ("accuracy.images", 1.5, "report: accuracy.images must be an integer, found 1.5"),
        (
            "accuracy.kind",
            "guessed",
            "report: accuracy.kind must be one of predicted, measured, unknown, fo",
        ),
        ("predicted.seconds", True, "report: predicted.seconds must be a number, found True"),
        ("target", 3, "report: target must be an object, found 3"),
        ("promises", {}, "report: promises must be a list, found {}"),
        ("seed", None, "report: seed must be an integer, found None"),
        ("extra", 1, "report: unknown field 'extra'"),
    ],
)
def test_a_wrong_field_of_a_record_is_named(path: str, value, error: str):
    fields = record().to_json()
    *outer, last = path.split(".")
    inside = fields[outer[0]] if outer else fields
    inside[last] = value
    with pytest.raises(EdgenasError) as caught:
        Record.from_json(fields)
    assert caught.value.message.startswith(error)


def test_a_measured_accuracy_has_the_error_of_a_proportion():
    found = AccuracyRecord.of(correct=90, images=100, data="photos", split="test")
    assert str(found) == "90.00% measured (photos test, n=100, standard error 3.00 points)"


def test_numbers_travel_with_their_evidence():
    told = record()
    assert str(told.accuracy) == (
        "71.23% predicted (cifar10 validation, n=5000, mean error 0.42 points on 60 held-out archs)"
    )
    of_search = dataclasses.replace(told.accuracy, chosen=True)
    assert "mean error 0.42 points on 60 archs that a search chose" in str(of_search)
    assert str(told.predicted) == (
        "1.00 ms predicted, at most 1.20 ms at 95% confidence (Student-t on 5 networks; from "
        "table of 30 layers, measured)"
    )
    assert told.predicted is not None
    estimated = dataclasses.replace(told.predicted, provenance="estimated")
    assert str(estimated).startswith("1.00 ms estimated, at most")
    assert str(timed()) == (
        "1.01 ms measured (median, n=500, 10th to 90th percentile 1.00 ms to 1.05 ms; ungated p95 "
        "1.50 ms, n=700)"
    )
    noisy = dataclasses.replace(timed(), n=0, flag="noisy", half_width=None)
    assert str(noisy).startswith(
        "1.01 ms measured (5th percentile of 700 runs: none of them met the machine at full speed, "
    )
    assert str(told.promises[0]) == "latency<=2ms: kept, 60% of it used, the upper bound"


def test_the_card_says_all_of_it(pristine: Path):
    told, text = record(), (pristine / "MODEL_CARD.md").read_text(encoding="utf-8")
    said = [told.accuracy, told.predicted, *told.promises, *told.notes, told.target, "horse"]
    for part in said:
        assert str(part) in text
    assert "resize to 20x20, then to 16x16 pixels, bilinear" in text
    assert load_arch(pristine / "arch.json").id in text
    made = {"manifest": manifest.read(pristine), "onnx": (pristine / "model.onnx").read_bytes()}
    both = model_card(record(measured=timed()), **made)
    assert both.index(str(timed())) < both.index(str(told.predicted))
    neither = model_card(record(predicted=None), **made)
    assert "Latency: not known" in neither


LEFT = ("._model.onnx", ".DS_Store", "Thumbs.db", "desktop.ini", "manifest.json~", ".card.md.swp")


def test_what_file_managers_and_editors_leave_is_named_and_harms_nothing(bundle: Path):
    for name in LEFT:
        (bundle / name).write_bytes(b"\x00")
    checks = verify_bundle(bundle)
    assert all(check.passed for check in checks)
    (files,) = (check for check in checks if check.name == "files")
    named = ", ".join(sorted(LEFT))
    assert files.detail.endswith(f"not looked at, left by a file manager or an editor: {named}")


@pytest.mark.parametrize(
    "name", ["model.onnx.DS_Store", "x.py", "DS_Store", ".hidden", "Thumbs.dbx"]
)
def test_other_strangers_fail(bundle: Path, name: str):
    (bundle / ".DS_Store").write_bytes(b"")
    (bundle / name).write_bytes(b"")
    assert failure(bundle) == f"files: {name} is no part of the bundle"


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd"), os.mkfifo]
)
def test_only_plain_files_are_taken_for_litter(bundle: Path, make: Callable[[Path], object]):
    make(bundle / ".DS_Store")
    assert failure(bundle) == "files: .DS_Store is no part of the bundle"


# The example, where there is nothing but numpy, Pillow and onnxruntime

# Python's own way to find packages, narrowed: what is not allowed is not there.
ALONE = """
import importlib.metadata, runpy, sys
from importlib.metadata import packages_distributions

allowed = {"numpy", "pillow", "onnxruntime"}
for name in sorted(allowed):
    for needed in importlib.metadata.requires(name) or ():
        if "extra" not in needed:
            allowed.add(needed.split(";")[0].split("=")[0].strip(" <>!~").lower())
held = packages_distributions().items()
modules = {module for module, names in held if allowed & {name.lower() for name in names}}

class Missing:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in modules and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)

sys.meta_path.insert(0, Missing())
for absent in ("torch", "onnx", "edgenas"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{absent} can be imported")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_example(
    folder: Path, *python: str, images: tuple[Path, ...] = (), encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, str(folder / "example.py"), *map(str, images)],
        cwd=folder.parent,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={"PATH": "", "PYTHONIOENCODING": encoding},
    )


def test_the_example_runs_without_edgenas(bundle: Path):
    done = run_example(bundle, sys.executable, "-c", ALONE)
    assert done.returncode == 0, done.stderr
    first, *labels = done.stdout.splitlines()[:6]
    assert first == "sample_image.png"
    logits = np.load(bundle / "expected_output.npy")[0]
    assert [line.split()[-1] for line in labels] == [LABELS[i] for i in np.argsort(-logits)[:5]]
    assert "sample input: as expected" in done.stdout
    assert "sample output: as expected" in done.stdout
    assert all(check.passed for check in verify_bundle(bundle))  # it leaves nothing behind


def test_the_example_escapes_labels_that_a_terminal_lacks(bundle: Path):
    done = run_example(bundle, sys.executable, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert "L\\xf6we" in done.stdout


def test_the_example_classifies_images(bundle: Path, tmp_path: Path):
    paths = (tmp_path / "grey.jpg", tmp_path / "clear.png")
    Image.new("L", (31, 17), 90).save(paths[0])
    Image.new("RGBA", (17, 31), (10, 200, 30, 40)).save(paths[1])
    done = run_example(bundle, sys.executable, "-c", ALONE, images=paths)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["grey.jpg", "clear.png"]
    shares = [float(line.split()[0].rstrip("%")) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.3


def test_the_example_notices_a_model_that_computes_something_else(bundle: Path):
    network = Supernet(tiny(), seed=1).eval().extract(tiny().largest())
    (bundle / "model.onnx").write_bytes(to_onnx(network, preprocessing={}))
    done = run_example(bundle, sys.executable)
    assert done.returncode == 1
    assert "sample output: DIFFERENT" in done.stdout


@pytest.mark.slow
def test_the_example_runs_in_an_environment_of_its_own(bundle: Path, tmp_path: Path):
    """A real one, as the card says: skipped where packages cannot be installed."""
    versions = (
        f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "pillow", "onnxruntime")
    )
    python = python_with(tuple(versions), tmp_path / "venv")
    done = run_example(bundle, python)
    assert done.returncode == 0, done.stderr
    assert "sample output: as expected" in done.stdout


# The example on Python 3.8, which JetPack 5 has

BUILTINS = {"dict", "list", "tuple", "set", "frozenset", "type"}
NEWER = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "readlink"}


def needs_newer_python(text: str) -> list[str]:
    """What Python 3.8 does not compile or cannot evaluate, line by line."""
    tree = ast.parse(text, feature_version=(3, 8))
    lazy = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and "annotations" in {name.name for name in node.names}
        for node in tree.body
    )
    annotations = set[ast.AST]()
    for node in ast.walk(tree) if lazy else ():
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            annotations |= set() if part is None else set(ast.walk(part))
    found = list[str]()
    for node in ast.walk(tree):
        if node in annotations:
            continue
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") in BUILTINS:
            found.append(f"line {node.lineno}: {ast.unparse(node)} is evaluated")
        if isinstance(node, ast.Attribute) and node.attr in NEWER:
            found.append(f"line {node.lineno}: .{node.attr}")
        if isinstance(node, ast.keyword) and node.arg == "strict":
            found.append(f"line {node.value.lineno}: zip(..., strict=...)")
    return found


def test_the_example_asks_for_nothing_that_python_3_8_lacks():
    assert needs_newer_python(Path(example.__file__).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: dict[str, int]): ...",
        "def f() -> list[str]: ...",
        "from __future__ import annotations\nx = list[int]()",
        "from __future__ import annotations\n'a'.removeprefix('a')",
        "list(zip([1], [2], strict=True))",
    ],
)
def test_what_python_3_8_lacks_would_be_noticed(text: str):
    assert needs_newer_python(text)


def test_the_card_names_the_lowest_versions(bundle: Path):
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "$ pip install 'numpy>=1.21.6' 'pillow>=9.1' 'onnxruntime>=1.18'\n" in card
    assert "Python 3.8" in card


def python_3_8() -> str:
    """A Python 3.8 of this machine that works; skips where there is none."""
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.8*/bin/python3.8"))
    for python in (shutil.which("python3.8"), *map(str, pyenv)):
        if (
            python
            and not subprocess.run([python, "-c", "import venv"], capture_output=True).returncode
        ):
            return python
    pytest.skip("there is no Python 3.8 here")


@pytest.mark.slow
def test_the_example_runs_on_python_3_8_with_the_lowest_versions(bundle: Path, tmp_path: Path):
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    needed = re.findall(r"'([a-z]+>=[\d.]+)'", card)
    assert len(needed) == 3
    lowest = tuple(one.replace(">=", "==") for one in needed)
    python = python_with(lowest, tmp_path / "venv", base=python_3_8())
    done = run_example(bundle, python)
    assert done.returncode == 0, done.stderr
    assert "sample output: as expected" in done.stdout


# What is generated is what this version generates, and says so where it cannot know


def of(folder: Path, name: str) -> ClaimCheck:
    return next(check for check in verify_bundle(folder, page=bundle_page) if check.name == name)


@pytest.mark.parametrize(
    ("name", "file"),
    [("page", "report.html"), ("card", "MODEL_CARD.md"), ("example", "example.py")],
)
def test_a_generated_file_that_was_changed_fails(bundle: Path, name: str, file: str):
    assert of(bundle, name).passed
    path = bundle / file
    path.write_bytes(path.read_bytes() + b"\n")
    resign(bundle)
    check = of(bundle, name)
    assert not check.passed
    assert f"{file} is not what edgenas " in check.detail


@pytest.mark.parametrize("name", ["page", "card", "example"])
def test_a_generated_file_of_another_version_is_said_not_to_be_compared(bundle: Path, name: str):
    (bundle / "example.py").write_text("print('older')\n")
    resign(bundle, versions={**manifest.read(bundle)["versions"], "edgenas": "0.0.1"})
    check = of(bundle, name)
    assert check.passed
    assert check.detail.startswith("not compared: ")
    assert "is of edgenas 0.0.1, this is " in check.detail


def test_a_checkout_with_other_sources_does_not_compare(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = name_build()
    assert manifest.read(bundle)["versions"]["edgenas"] == ours
    assert ours.startswith(f"{version()}+")  # the digest of the sources: tests run in a checkout
    other = f"{version()}+0123456789"
    monkeypatch.setattr("edgenas.bundle.verify.name_build", lambda: other)
    for check in verify_bundle(bundle, page=lambda contents: "another page"):
        assert check.passed, str(check)
        if check.name in ("page", "card", "example"):
            assert check.detail.endswith(f"is of edgenas {ours}, this is {other}")


def test_a_page_is_said_not_to_be_compared_where_nobody_makes_it(bundle: Path):
    (found,) = (check for check in verify_bundle(bundle) if check.name == "page")
    assert str(found) == "page: tells of this network and its promises, not compared"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "rpi4"}, "device is 'rpi4', report.json says host"),
        ({"seed": 7}, "seed is 7, report.json says 0"),
        ({"constraints": []}, "constraints is [], report.json says ['latency<=2ms']"),
        ({"target": "onnxruntime-int8-t1-b1"}, "target is 'onnxruntime-int8-t1-b1'"),
        ({"supernet": "a" * 64}, "supernet is 'aaa"),
    ],
)
def test_a_request_that_the_results_do_not_answer_fails(bundle: Path, change: dict, error: str):
    resign(bundle, request={**REQUEST, **change})
    assert failure(bundle).startswith(f"request: {error}")


def test_what_of_a_request_is_not_checked_is_said(bundle: Path):
    told = {**REQUEST, "target": "onnxruntime-auto-t1-b1", "strategy": "evolution", "data": None}
    resign(bundle, request=told)
    wanted = "device, target, constraints, seed as reported; not checked: strategy, data"
    assert of(bundle, "request").detail == wanted


def test_a_picture_that_holds_more_than_pixels_fails(bundle: Path):
    path = bundle / "sample_image.png"
    pixels = path.read_bytes()
    path.write_bytes(pixels + b"more")
    resign(bundle)
    assert failure(bundle) == "picture: sample_image.png has 4 bytes behind its end"
    note = PngInfo()
    note.add_text("Comment", "made by nobody")
    Image.open(io.BytesIO(pixels)).save(path, pnginfo=note)
    resign(bundle)
    assert failure(bundle) == "picture: sample_image.png has a chunk 'tEXt' beside its pixels"


def test_a_picture_that_is_too_large_is_not_decoded(bundle: Path):
    Image.new("1", (20_000, 20_000)).save(bundle / "sample_image.png")
    resign(bundle)
    assert failure(bundle) == "picture: has 20000 x 20000 pixels, too many to check"


def test_bytes_behind_an_array_fail(bundle: Path):
    path = bundle / "expected_output.npy"
    path.write_bytes(path.read_bytes() + b"more")
    resign(bundle)
    assert failure(bundle).endswith("expected_output.npy has bytes behind its array")


@pytest.mark.parametrize("name", ["manifest.json", *manifest.FILES])
def test_a_fifo_in_the_place_of_a_file_is_refused_at_once(bundle: Path, name: str):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    if name == "manifest.json":
        with pytest.raises(EdgenasError, match=r"manifest.json is no regular file"):
            verify_bundle(bundle)
    else:
        assert failure(bundle) == f"files: {name} is no plain file"
