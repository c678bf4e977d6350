"""Retraining the best networks: what is learnt from, what decides, what is delivered and told."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.contents import read_contents
from edgenas.bundle.record import Record, RetrainedNetwork, Retraining
from edgenas.bundle.verify import verify_bundle
from edgenas.delivery import ranking, retraining
from edgenas.delivery.fleet import read_fleet
from edgenas.delivery.request import SpecializeRequest, Strategy
from edgenas.delivery.retraining import recipe_for
from edgenas.delivery.run import specialize
from edgenas.images.data import Images, drop_copies
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate
from edgenas.model.export import run_onnx
from edgenas.model.network import Network
from edgenas.model.saved import load_supernet
from edgenas.pages.bundle import bundle_page
from edgenas.space.cost import macs_table
from edgenas.strategies.gradient import run as gradient
from edgenas.strategies.gradient.run import LearntPolicy, SearchData
from edgenas.training.division import recipe_of, split_as_trained
from edgenas.training.recipe import Recipe


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another cache, and a current folder to write to."""
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def ask(supernet: Path, photos: Path, **changes) -> SpecializeRequest:
    """Two networks, an epoch each, for a board that is not at hand."""
    usual = {
        "device": "jetson",
        "constraint": ("macs<=200K",),
        "supernet": str(supernet),
        "data": str(photos),
        "retrain_top": 2,
        "retrain_epochs": 2,
    }
    return SpecializeRequest(**{**usual, **changes})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Network, Images, Recipe, Network]]:
    """Every training: from what, on which images, how, and what came out."""
    found: list[tuple[Network, Images, Recipe, Network]] = []

    def train_alone(network: Network, images: Images, *, recipe: Recipe, **rest) -> Network:
        done = original(network, images, recipe=recipe, **rest)
        found.append((network, images, recipe, done))
        return done

    original = retraining.train_alone
    monkeypatch.setattr(retraining, "train_alone", train_alone)
    return found


@pytest.fixture(scope="module")
def others(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test images: those of ``photos`` with another noise."""
    folder, rng = tmp_path_factory.mktemp("others"), np.random.default_rng(1)
    for path in sorted(photos.rglob("*.png")):
        pixels = np.asarray(Image.open(path)) + rng.normal(0, 20, (16, 16, 3))
        (folder / path.parent.name).mkdir(exist_ok=True)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / path.parent.name / path.name)
    return folder


def pixels_of(images: Images) -> set[bytes]:
    return {image.tobytes() for image in images.pixels.numpy()}


def test_the_delivered_network_is_the_best_retrained_one(
    tiny: Path, photos: Path, others: Path, seen
):
    found = specialize(ask(tiny, photos, test=str(others)), out=Path("bundle"))
    assert all(check.passed for check in verify_bundle(found.folder))
    trained, images = load_supernet(tiny), load_images(str(others), stored=16)
    calibration, validation = split_as_trained(trained, load_images(str(photos), stored=16))
    told = found.record.retraining
    assert told is not None
    assert (told.start, told.epochs, told.learning_rate) == ("inherited", 2, 0.02)
    assert told.images == len(seen[0][1])
    assert told.validation == len(validation)

    # An independent evaluation of everything that is told.
    values: dict[str, tuple[float, float]] = {}
    for _, _, _, network in seen:
        both = []
        for one in (trained.supernet.extract(network.arch), network):
            calibrate(one, calibration, preprocessing=trained.preprocessing)
            given = {"preprocessing": trained.preprocessing, "split": "validation"}
            both.append(measure_accuracy(one, validation, **given).value)
        values[network.arch.id] = both[0], both[1]
    assert len(values) == 2
    assert {one.arch_id: (one.before, one.after) for one in told.candidates} == values
    assert found.arch.id == told.candidates[0].arch_id
    assert told.candidates[0].after == max(after for _, after in values.values())
    assert (
        macs_table(trained.supernet.space)(
            trained.supernet.space.encode([network.arch for *_, network in seen])
        ).max()
        <= 200e3
    )

    # The model that ships is that network, and its accuracy on the test images is the one told.
    (best,) = [network for *_, network in seen if network.arch == found.arch]
    inputs = trained.preprocessing.prepare(images.pixels, resolution=best.arch.resolution)
    with torch.inference_mode():
        logits = best(inputs)
    onnx = (found.folder / "model.onnx").read_bytes()
    shipped = run_onnx(onnx, inputs.contiguous().numpy())
    np.testing.assert_allclose(shipped, logits.numpy(), atol=1e-3)
    right = (logits.argmax(1) == images.labels).double().mean().item()
    assert told.after.value == found.record.accuracy.value == pytest.approx(right)
    assert (told.after.split, told.before.split) == ("test", "test")
    inherited = trained.supernet.extract(found.arch)
    calibrate(inherited, calibration, preprocessing=trained.preprocessing)
    given = {"preprocessing": trained.preprocessing, "split": "test"}
    assert told.before.value == measure_accuracy(inherited, images, **given).value
    assert str(told) in (found.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    page = bundle_page(read_contents(found.folder))
    assert "Retraining" in page
    assert all(one.arch_id in page for one in told.candidates)
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert (
        manifest["weights"]["retraining"]
        == json.loads(json.dumps(found.record.to_json()))["retraining"]
    )
    assert manifest["request"]["retrain_top"] == 2


def test_splits_never_mix(tiny: Path, photos: Path, tmp_path: Path, seen):
    """Not even by copies of an image among the training, validation and test images."""
    mixed, tests = tmp_path / "mixed", tmp_path / "tests"
    shutil.copytree(photos, mixed)
    for i in range(32):
        shutil.copy(mixed / f"along/{i:02}.png", mixed / f"along/copy{i:02}.png")
    for name in ("across", "along", "slanted"):
        (tests / name).mkdir(parents=True)
        shutil.copy(mixed / f"{name}/03.png", tests / name)
    result = specialize(ask(tiny, mixed, test=str(tests), retrain_top=1), out=Path("bundle"))
    _, validation = split_as_trained(load_supernet(tiny), load_images(str(mixed), stored=16))
    (trained,) = seen
    learnt = pixels_of(trained[1])
    assert learnt
    assert not learnt & pixels_of(validation)
    assert not learnt & pixels_of(load_images(str(tests), stored=16))
    assert any("no weights were trained on them here" in note for note in result.record.notes)


def test_where_all_images_are_for_tests_nothing_is_learnt(tiny: Path, photos: Path):
    with pytest.raises(EdgenasError, match=r"0 are left to learn from.*\nhint: give other images"):
        specialize(ask(tiny, photos, test=str(photos)), out=Path("bundle"))


def test_images_unlike_others_are_those_whose_pixels_none_has(photos: Path):
    images = load_images(str(photos), stored=16)
    some, rest = images.take(torch.arange(10)), images.take(torch.arange(5, 96))
    assert pixels_of(drop_copies(images, [some])) == pixels_of(images) - pixels_of(some)
    assert len(drop_copies(images, [some, rest])) == 0
    assert pixels_of(drop_copies(images, [])) == pixels_of(images)


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_what_was_killed_goes_on_to_the_same_bundle(tiny: Path, photos: Path):
    request = ask(tiny, photos)
    whole = specialize(request, out=Path("whole"))
    shutil.rmtree(Path("cache/retrained"))
    told: list[int] = []

    def killing(at: int) -> Callable[[str, int, int, str], None]:
        def tell(step: str, done: int, total: int, words: str) -> None:
            if step == "retraining":
                assert total == 12
                assert "left" in words
                told.append(done)
                if done == at:
                    raise KilledError

        return tell

    # A training of the toy images has steps of 24 images, of 72: 3 steps an epoch, 12 in all.
    slow = replace(recipe_for(request, load_supernet(tiny)), checkpoint_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "recipe_for", lambda *given: slow)
        specialize(request, out=Path("slow"))
        shutil.rmtree(Path("cache/retrained"))
        for at in (4, 9):
            with pytest.raises(KilledError):
                specialize(request, out=Path("bundle"), progress=killing(at))
        told.clear()
        found = specialize(request, out=Path("bundle"), progress=killing(0))
    assert told == [9, 10, 11, 12]
    assert found.arch == whole.arch
    names = ("model.onnx", "report.json")
    for name in names:
        assert (Path("bundle") / name).read_bytes() == (Path("whole") / name).read_bytes()
    again = specialize(request, out=Path("bundle"))
    assert again.existed


@pytest.mark.parametrize("strategy", ["halving", pytest.param("asha", marks=pytest.mark.slow)])
def test_many_short_trainings_choose_who_gets_a_long_one(
    tiny: Path, photos: Path, strategy: str, seen
):
    request = ask(tiny, photos, retrain_top=3, retrain_epochs=3, retrain_strategy=strategy)
    found = specialize(request, out=Path("bundle"))
    assert all(check.passed for check in verify_bundle(found.folder))
    lengths = sorted(recipe.epochs for _, _, recipe, _ in seen)
    assert lengths == [1, 1, 1, 3]
    told = found.record.retraining
    assert told is not None
    assert told.epochs == 3
    assert len(told.candidates) == 3
    # The one with the long training ships, and the best of the short ones has got it.
    (long,) = [network for _, _, recipe, network in seen if recipe.epochs == 3]
    assert found.arch == long.arch
    short = {network.arch.id: network for _, _, recipe, network in seen if recipe.epochs == 1}
    trained = load_supernet(tiny)
    calibration, validation = split_as_trained(trained, load_images(str(photos), stored=16))
    after: dict[str, float] = {}
    for name, network in short.items():
        calibrate(network, calibration, preprocessing=trained.preprocessing)
        given = {"preprocessing": trained.preprocessing, "split": "validation"}
        after[name] = measure_accuracy(network, validation, **given).value
    assert after[long.arch.id] == max(after.values())
    assert {one.arch_id: one.after for one in told.candidates[1:]} == {
        name: value for name, value in after.items() if name != long.arch.id
    }
    note = f"{strategy} of 3 networks: 2 for 1, 1 for 3 epochs at last"
    assert any(text.startswith(note) for text in found.record.notes)

    # A command that was killed trains what is left, and nothing again.
    shutil.rmtree(Path("cache/retrained"))

    def kill(step: str, done: int, total: int, words: str) -> None:
        if step == "retraining":
            assert total == 18  # two rungs of three epochs, of three steps
            if done == 11:  # in the long training
                raise KilledError

    with pytest.raises(KilledError):
        specialize(request, out=Path("again"), progress=kill)
    kept = {path: path.read_bytes() for path in Path("cache/retrained").iterdir()}
    assert len(kept) == 3
    steps: list[int] = []

    def watch(step: str, done: int, total: int, words: str) -> None:
        steps.extend([done] if step == "retraining" else [])

    specialize(request, out=Path("again"), progress=watch)
    assert steps == list(range(10, 19))
    assert all(path.read_bytes() == data for path, data in kept.items())
    for name in ("model.onnx", "report.json"):
        assert (Path("again") / name).read_bytes() == (found.folder / name).read_bytes()


@pytest.mark.parametrize("strategy", ["aging", "gaussian", "reinforce"])
def test_any_strategy_can_be_retrained_from(
    tiny: Path, photos: Path, strategy: str, seen, monkeypatch: pytest.MonkeyPatch
):
    assert strategy in get_args(Strategy)
    few = gradient.GradientSettings(steps=6, batch=8)
    monkeypatch.setattr(ranking, "GradientSettings", lambda: few)
    monkeypatch.setattr(ranking, "EVALUATIONS", 8)
    request = ask(tiny, photos, strategy=strategy, retrain_top=3, retrain_epochs=1)
    found = specialize(request, out=Path("bundle"))
    told = found.record.retraining
    assert told is not None
    assert len({one.arch_id for one in told.candidates}) == len(seen) == 3


@pytest.fixture
def joint(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Images, LearntPolicy]]:
    """Searches of few steps that train weights: on which images, and what came out."""
    few = ranking.GradientSettings(steps=6, batch=8)
    monkeypatch.setattr(ranking, "GradientSettings", lambda: few)
    monkeypatch.setattr(gradient, "_KEPT", 2)
    found: list[tuple[Images, LearntPolicy]] = []

    def learn(supernet, *, data: SearchData, **rest) -> LearntPolicy:
        learnt = original(supernet, data=data, **rest)
        assert data.training is not None
        found.append((data.training.images, learnt))
        return learnt

    original = ranking.learn
    monkeypatch.setattr(ranking, "learn", learn)
    return found


@pytest.mark.slow
def test_weights_trained_beside_the_choices_are_delivered(
    tiny: Path, photos: Path, others: Path, joint
):
    request = ask(
        tiny,
        photos,
        test=str(others),
        strategy="proxyless",
        weights="joint",
        retrain_top=0,
        retrain_epochs=None,
    )
    found = specialize(request, out=Path("bundle"))
    assert all(check.passed for check in verify_bundle(found.folder))
    trained, images = load_supernet(tiny), load_images(str(others), stored=16)
    calibration, validation = split_as_trained(trained, load_images(str(photos), stored=16))
    ((learnt_from, learnt),) = joint
    assert not pixels_of(learnt_from) & (pixels_of(validation) | pixels_of(images))
    told = found.record.retraining
    assert told is not None
    assert (told.start, told.epochs, told.learning_rate) == ("joint", 2, 0.02)
    assert (told.images, told.validation) == (len(learnt_from), len(validation))
    assert "beside a search that learnt from 24 validation images" in str(told)
    assert [one.arch_id for one in told.candidates] == [found.arch.id]

    # The model that ships has the weights that were trained, and its accuracy is the one told.
    assert learnt.supernet is not None
    values: list[float] = []
    for supernet in (trained.supernet, learnt.supernet):
        network = supernet.extract(found.arch)
        calibrate(network, calibration, preprocessing=trained.preprocessing)
        given = {"preprocessing": trained.preprocessing, "split": "test"}
        values.append(measure_accuracy(network, images, **given).value)
        inputs = trained.preprocessing.prepare(images.pixels, resolution=found.arch.resolution)
        with torch.inference_mode():
            logits = network(inputs)
    shipped = run_onnx((found.folder / "model.onnx").read_bytes(), inputs.contiguous().numpy())
    np.testing.assert_allclose(shipped, logits.numpy(), atol=1e-3)
    assert (told.before.value, told.after.value) == tuple(values)
    assert told.after.value == found.record.accuracy.value
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert manifest["request"]["weights"] == "joint"
    assert manifest["weights"]["retraining"]["start"] == "joint"

    # A search that was killed goes on to the same bundle.
    shutil.rmtree(Path("cache/searches"))

    def kill(step: str, done: int, total: int, words: str) -> None:
        if step == "learning" and done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        specialize(request, out=Path("again"), progress=kill)
    specialize(request, out=Path("again"))
    for name in ("model.onnx", "report.json"):
        assert (Path("again") / name).read_bytes() == (found.folder / name).read_bytes()


def test_from_scratch_nothing_is_inherited(tiny: Path, photos: Path, seen):
    request = ask(tiny, photos, retrain_top=1, retrain_from="scratch", retrain_epochs=1)
    found = specialize(request, out=Path("bundle"))
    told = found.record.retraining
    assert told is not None
    assert told.start == "scratch"
    assert told.learning_rate == 0.2  # of the recipe of the supernet
    ((start, _, _, _),) = seen
    inherited = load_supernet(tiny).supernet.extract(start.arch)
    kernels = [(a, b) for a, b in zip(start.parameters(), inherited.parameters(), strict=True)]
    assert not any(torch.equal(a, b) for a, b in kernels if a.ndim > 1)
    norms = [part for part in start.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()


def test_the_recipe_is_that_of_the_supernet_but_for_epochs_and_rate(tiny: Path, photos: Path):
    trained = load_supernet(tiny)
    own = recipe_of(trained)
    assert (own.batch, own.learning_rate, own.validation) == (24, 0.2, 0.25)
    request = ask(tiny, photos)
    found = recipe_for(request, trained)
    assert replace(found, epochs=3, learning_rate=0.2, warmup=1.0) == own
    assert (found.epochs, found.learning_rate) == (2, 0.02)
    assert recipe_for(replace(request, retrain_epochs=None), trained).epochs == 10
    scratch = replace(request, retrain_from="scratch", retrain_epochs=None, retrain_rate=0.3)
    assert recipe_for(scratch, trained).epochs == 60
    assert recipe_for(scratch, trained).learning_rate == 0.3


def test_the_request_of_a_plain_bundle_is_as_it_was(tiny: Path, photos: Path):
    """Bundles made before there was retraining still answer the same request."""
    specialize(ask(tiny, photos, retrain_top=0, retrain_epochs=None), out=Path("bundle"))
    manifest = json.loads(Path("bundle/manifest.json").read_text())
    assert not [name for name in manifest["request"] if "retrain" in name or name == "weights"]
    assert "weights" not in manifest
    assert "retraining" not in json.loads(Path("bundle/report.json").read_text())


def test_a_fleet_can_be_retrained(tmp_path: Path, tiny: Path, photos: Path):
    text = f'''
    schema = "edgenas.fleet/1"
    supernet = "{tiny}"
    data = "{photos}"
    retrain_top = 2
    retrain_rate = 0.01
    [[devices]]
    device = "jetson"
    macs = "200K"
    '''
    (tmp_path / "fleet.toml").write_text(text)
    (entry,) = read_fleet(tmp_path / "fleet.toml")
    assert (entry.request.retrain_top, entry.request.retrain_rate) == (2, 0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "training weights needs --data"),
        ({"retrain_top": -1}, "retrain_top must be at least 0, found -1"),
        ({"retrain_epochs": 0}, "retrain_epochs must be at least 1, found 0"),
        ({"retrain_rate": 0.0}, "retrain_rate must be above 0, found 0"),
        (
            {"retrain_from": "nothing"},
            "retrain_from must be one of inherited, scratch, found 'nothing'",
        ),
        ({"retrain_top": 0}, "has no effect without retrain_top"),
        (
            {"retrain_strategy": "halving"},
            "retrain_strategy halving needs a choice: at least 3 networks and 2 epochs, found "
            "retrain_top 2",
        ),
        (
            {"retrain_strategy": "bohb"},
            "retrain_strategy must be one of all, halving, hyperband, asha, found 'bohb'",
        ),
        ({"weights": "some"}, "weights must be one of fixed, joint, found 'some'"),
        ({"weights": "joint"}, "weights joint needs a strategy that learns by gradients, found ev"),
        ({"weights": "joint", "strategy": "gumbel"}, "both train the weights that are delivered"),
    ],
)
def test_what_cannot_be_retrained_is_refused(tiny: Path, photos: Path, changes: dict, message: str):
    with pytest.raises(EdgenasError, match=message):
        specialize(ask(tiny, photos, **changes), out=Path("bundle"))
    assert not Path("bundle").exists()


# The record


def told() -> Retraining:
    judged = AccuracyRecord.of(correct=80, images=100, data="photos", split="test")
    return Retraining(
        start="scratch",
        epochs=5,
        learning_rate=0.02,
        images=1000,
        validation=100,
        candidates=(
            RetrainedNetwork(arch_id="a" * 10, arch_text="r8 8[3x1]", before=0.7, after=0.8),
        ),
        before=judged,
        after=replace(judged, value=0.85),
    )


def test_retraining_survives_json_and_is_told_in_words(tiny: Path, photos: Path):
    found = specialize(
        ask(tiny, photos, retrain_top=0, retrain_epochs=None), out=Path("bundle")
    ).record
    record = replace(found, retraining=told())
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert str(told()) == (
        "5 epochs from random weights on 1000 training images, the best of 1 on 100 validation "
        "images; photos test, n=100: 80.00% before, 85.00% after (+5.00 points)"
    )
    for change, error in (
        ({"candidates": 3}, "report: retraining.candidates must be a list"),
        ({"start": "somewhere"}, "report: retraining.start must be one of inherited, scratch"),
        ({"before": None}, "report: retraining.before must be an object"),
        ({"epochs": "5"}, "report: retraining.epochs must be an integer"),
    ):
        fields = record.to_json()
        fields["retraining"] |= change
        with pytest.raises(EdgenasError, match=error):
            Record.from_json(fields)


def test_a_bundle_of_another_retrained_network_fails(tiny: Path, photos: Path):
    found = specialize(ask(tiny, photos, retrain_top=1), out=Path("bundle"))
    path = found.folder / "report.json"
    fields = json.loads(path.read_text())
    fields["retraining"]["candidates"][0]["arch_id"] = "b" * 10
    path.write_text(json.dumps(fields))
    from test_bundle import resign

    resign(found.folder)
    failed = next(check for check in verify_bundle(found.folder) if not check.passed)
    assert failed.name == "weights"
