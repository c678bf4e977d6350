import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from timed_machine import write_table

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.quantisation import IntegerAccuracy, Quantisation
from edgenas.bundle.record import Record
from edgenas.bundle.verify import verify_bundle
from edgenas.clock.measure import Measurement
from edgenas.delivery import building, evaluating, quantising
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.images.loading import load_images
from edgenas.latency.device import load as load_device
from edgenas.latency.table import Timing
from edgenas.model.export import integer_share, operator_counts
from edgenas.model.saved import load_supernet
from edgenas.runtime import registry as runtimes
from edgenas.training.alone import DivergedError
from edgenas.training.division import split_as_trained


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def tables(rising: Path, monkeypatch: pytest.MonkeyPatch):
    """Tables of this machine for fp32 and, twice as fast, int8; the clock agrees with them."""
    space = load_supernet(rising).supernet.space
    for kind, pace in (("fp32", 1.0), ("int8", 0.5)):
        target = load_device("host").target(precision=kind)
        write_table(
            space,
            target,
            timing=lambda seconds: Timing(median=seconds, n=50, wall_p95=2 * seconds),
            pace=pace,
        )

    def timed(onnx: bytes, *, target, settings, clock) -> Measurement:
        pace = 1.0 if target.precision == "fp32" else 0.5
        macs = sum(each.macs for each in operator_counts(onnx))
        seconds = pace * (6e-5 + 1e-9 * macs)
        times = dict.fromkeys(("median", "p10", "p90", "wall_p50", "wall_p95", "canary"), seconds)
        return Measurement(name="network", n=100, half_width=0.001, wall_n=150, flag="", **times)

    monkeypatch.setattr(building, "measure_network", timed)


def ask(supernet: Path, *, budget: str = "latency<=1s", **changes) -> SpecializeRequest:
    return SpecializeRequest(device="host", constraint=(budget,), supernet=str(supernet), **changes)


def test_an_int8_bundle_is_what_was_judged(rising: Path, photos: Path, tables):
    result = specialize(ask(rising, precision="int8", data=str(photos)), out=Path("bundle"))
    assert all(check.passed for check in verify_bundle(Path("bundle")))
    onnx = (Path("bundle") / "model.onnx").read_bytes()
    facts = runtimes.get("onnxruntime").compile(onnx, precision=None, threads=1, batch=1).facts()
    assert (facts["precision"], result.record.target.precision) == ("int8", "int8")
    assert integer_share(onnx, runtime="onnxruntime") == 1.0
    assert any("100.0% of the MACs in integer kernels" in note for note in result.record.notes)
    # The accuracy is that of the shipped file, whoever runs it.
    trained = load_supernet(rising)
    _, validation = split_as_trained(trained, load_images(str(photos), stored=16))
    inputs = trained.preprocessing.prepare(validation.pixels, resolution=result.arch.resolution)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    classes = [int(session.run(None, {"image": x[None].numpy()})[0].argmax()) for x in inputs]
    right = int((np.array(classes) == validation.labels.numpy()).sum())
    assert result.record.accuracy.kind == "measured"
    assert result.record.accuracy.value == pytest.approx(right / len(validation))


@pytest.mark.slow
def test_int8_that_loses_too_much_is_refused_unless_allowed(
    rising: Path, photos: Path, tables, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluating, "LARGEST_DROP", -2.0)  # nothing gains 200 points
    request = ask(rising, precision="int8", data=str(photos))
    with pytest.raises(EdgenasError, match=r"int8 costs -?\d+\.\d+ points of accuracy") as caught:
        specialize(request, out=Path("bundle"))
    assert "--allow-accuracy-drop" in caught.value.hint
    assert not Path("bundle").exists()
    specialize(replace(request, allow_accuracy_drop=True), out=Path("bundle"))
    assert all(check.passed for check in verify_bundle(Path("bundle")))


def test_int8_without_labelled_images_is_refused_before_anything_slow(rising: Path):
    with pytest.raises(EdgenasError, match="int8 needs images with labels") as caught:
        specialize(ask(rising, precision="int8"), out=Path("bundle"))
    assert "--data or --test" in caught.value.hint


def test_allowed_without_images_it_says_how_far_it_agrees(rising: Path, tables):
    request = ask(rising, precision="int8", allow_accuracy_drop=True)
    result = specialize(request, out=Path("bundle"))
    assert result.record.accuracy.kind == "predicted"
    assert any("in int8 the class is the same on" in note for note in result.record.notes)


@pytest.mark.slow
def test_auto_takes_the_most_accurate_as_measured(rising: Path, photos: Path, tables):
    # A budget that only half the fp32 networks keep, and nearly all int8 ones.
    request = ask(rising, budget="latency<=0.2ms", precision="auto", data=str(photos))
    result = specialize(request, out=Path("bundle"))
    told = [note for note in result.record.notes if note.startswith("auto: ")]
    shares = {}
    for kind in ("fp32", "int8"):
        (line,) = (note for note in told if note.startswith(f"auto: {kind} gives"))
        shares[kind] = float(line.split("gives ")[1].split("%")[0])
    assert result.record.target.precision == max(shares, key=lambda kind: shares[kind])
    assert 100 * result.record.accuracy.value == pytest.approx(max(shares.values()), abs=0.01)
    assert specialize(request, out=Path("bundle")).existed


def test_auto_needs_a_device_and_images(rising: Path, photos: Path):
    with pytest.raises(EdgenasError, match="--precision auto needs images with labels"):
        specialize(ask(rising, precision="auto"), out=Path("bundle"))
    request = replace(ask(rising, precision="auto", data=str(photos)), device="jetson")
    with pytest.raises(EdgenasError, match="jetson-orin-nano is not at hand") as caught:
        specialize(request, out=Path("bundle"))
    assert "--precision fp16" in caught.value.hint


# Weights that learn for their integers


def wrecked(network, *rest, **given):
    """A fine-tuning that makes everything worse."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    return made


def others(photos: Path) -> Path:
    """Test images that are no copies: upside down and negative."""
    folder = Path("others").absolute()
    for path in photos.rglob("*0.png"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            ImageOps.invert(ImageOps.flip(image)).save(folder / path.parent.name / path.name)
    return folder


def test_without_images_to_learn_from_int8_weights_stay(rising: Path, photos: Path, tables):
    request = ask(rising, precision="int8", data=str(photos), allow_accuracy_drop=True)
    record = specialize(replace(request, test=str(photos)), out=Path("bundle")).record
    assert record.quantisation is None
    assert any("int8 weights were not fine-tuned: all training" in note for note in record.notes)


def test_int8_weights_learn_the_answers_of_fp32(rising: Path, photos: Path, tables):
    request = ask(rising, precision="int8", data=str(photos), allow_accuracy_drop=True)
    result = specialize(request, out=Path("bundle"))
    told = result.record.quantisation
    assert told is not None
    assert told.evaluation is None
    counts = {"fine-tuned": told.validation.fine_tuned, "calibrated": told.validation.calibrated}
    assert counts[told.shipped] == max(counts.values())
    assert result.record.accuracy.value == counts[told.shipped] / told.validation.images
    assert any("chose between calibrated and fine-tuned" in note for note in result.record.notes)
    assert all(check.passed for check in verify_bundle(Path("bundle")))
    assert str(told) in (Path("bundle") / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert str(told) in (Path("bundle") / "report.html").read_text(encoding="utf-8")
    assert Record.from_json(
        json.loads((Path("bundle") / "report.json").read_text(encoding="utf-8"))
    ) == (result.record)
    assert specialize(request, out=Path("bundle")).existed


def test_what_fine_tuning_makes_worse_does_not_ship(
    rising: Path, photos: Path, tables, monkeypatch: pytest.MonkeyPatch
):
    request = ask(rising, precision="int8", data=str(photos), allow_accuracy_drop=True)
    plain = specialize(replace(request, int8_epochs=0), out=Path("plain"))
    assert plain.record.quantisation is None
    monkeypatch.setattr(quantising, "fine_tune_quantised", wrecked)
    result = specialize(replace(request, test=str(others(photos))), out=Path("bundle"))
    told = result.record.quantisation
    assert told is not None
    assert told.shipped == "calibrated"
    assert told.evaluation is not None
    assert told.evaluation.split == "test"
    onnx = [(Path(name) / "model.onnx").read_bytes() for name in ("plain", "bundle")]
    assert onnx[0] == onnx[1]


def test_a_fine_tuning_that_diverges_leaves_the_weights(
    rising: Path, photos: Path, tables, monkeypatch: pytest.MonkeyPatch
):
    def diverge(*rest, **given):
        raise DivergedError("it diverged at step 3")

    monkeypatch.setattr(quantising, "fine_tune_quantised", diverge)
    request = ask(rising, precision="int8", data=str(photos), allow_accuracy_drop=True)
    record = specialize(request, out=Path("bundle")).record
    assert record.quantisation is None
    assert "int8 weights were not fine-tuned: it diverged at step 3" in record.notes


@pytest.mark.slow
def test_a_fine_tuning_of_int8_is_repeated_to_the_bit(
    rising: Path, photos: Path, tables, monkeypatch: pytest.MonkeyPatch
):
    request = ask(rising, precision="int8", data=str(photos), allow_accuracy_drop=True)
    found: list[bytes] = []
    for name in ("one", "two"):
        monkeypatch.setenv("EDGENAS_CACHE", str(Path(name).absolute()))
        shutil.copytree(Path("../cache"), name)
        shutil.rmtree(Path(name) / "quantised", ignore_errors=True)
        specialize(replace(request, int8_epochs=2.0), out=Path(f"bundle-{name}"))
        found.append((Path(f"bundle-{name}") / "model.onnx").read_bytes())
        assert list((Path(name) / "quantised").iterdir())
    assert found[0] == found[1]


@pytest.mark.parametrize("changes", [{"data": None, "precision": "int8"}, {"precision": "fp32"}])
def test_int8_epochs_are_for_int8_with_images(rising: Path, photos: Path, changes: dict):
    request = replace(ask(rising, data=str(photos), int8_epochs=1.0), **changes)
    with pytest.raises(EdgenasError, match="int8_epochs needs --data and --precision int8") as told:
        specialize(request, out=Path("bundle"))
    assert "leave out --int8-epochs" in told.value.hint


def test_what_int8_costs_is_told_in_words():
    told = Quantisation(
        shipped="fine-tuned",
        steps=200,
        batch=64,
        learning_rate=0.002,
        validation=IntegerAccuracy(
            split="validation", images=1000, fp32=900, calibrated=892, fine_tuned=898
        ),
        evaluation=IntegerAccuracy(
            split="test", images=2000, fp32=1800, calibrated=1785, fine_tuned=1801
        ),
    )
    assert str(told) == (
        "weights fine-tuned for int8; 200 steps of 64 images; lost against fp32 on validation, "
        "n=1000: 0.80 points by calibration alone, 0.20 after fine-tuning; on test, n=2000: "
        "0.75 points by calibration alone, -0.05 after fine-tuning"
    )
