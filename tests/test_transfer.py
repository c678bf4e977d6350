"""From photos to a bundle in one command: trained weights learn new classes."""

import gc
import hashlib
import math
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timed_machine import Machine, profiled

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import read_json
from edgenas.basics.options import key_values
from edgenas.basics.progress import Progress, no_progress, say_nothing
from edgenas.basics.units import duration
from edgenas.bundle.verify import verify_bundle
from edgenas.delivery import (
    building,
    contenders,
    fine_tuning,
    latency,
    rounds,
    supernets,
    train_inputs,
    transfer,
)
from edgenas.delivery.contenders import Contender, find_fitting
from edgenas.delivery.fine_tuning import leave_out_beginnings
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.rounds import plan_rounds
from edgenas.delivery.run import specialize
from edgenas.delivery.shared import SharedInputs
from edgenas.delivery.starting import choose_start
from edgenas.images.data import Images
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate
from edgenas.model.saved import load_supernet
from edgenas.model.supernet import Supernet
from edgenas.profiling.run import ProfilePlan
from edgenas.space import presets
from edgenas.space.arch import Arch
from edgenas.space.cost import total
from edgenas.space.space import Space
from edgenas.training import job, loop
from edgenas.training.course import Course
from edgenas.training.division import divide_as_trained
from edgenas.training.fine_tuning import fine_tune, load_trained
from edgenas.training.request import TrainRequest
from edgenas.training.timing import TooLittleTimeError
from edgenas.training.transfer import TRANSFER, Round

BRIEF = replace(
    TRANSFER,
    elastic=replace(TRANSFER.elastic, batch=32, epochs=2, accuracy_archs=20, watched=0),
    alone=replace(TRANSFER.alone, batch=32, epochs=2, checkpoint_seconds=0.0),
    rounds=(Round(networks=3, share=0.5), Round(networks=2, share=0.5)),
    fewest_steps=1,
    fewest_epochs=0.0,
)
COUNTS = {"north": 20, "east": 20, "south": 20, "west": 20}


def train_here(
    folders: Mapping[str, Path], *, images: Path, progress: Progress = no_progress, **rest: Any
) -> None:
    """As ``fine_tune_all``, without other processes; test_fine_tuning.py tests those."""

    def show(step: str, done: int, total: int, words: str) -> None:
        progress("fine-tuning", done, total, words)

    for folder in folders.values():
        fine_tune(folder, images=images, tell=lambda event: None, progress=show)


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, a current folder to write to, and a recipe of seconds."""
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for module in (rounds, train_inputs, transfer, job):
        monkeypatch.setattr(module, "TRANSFER", BRIEF)
    monkeypatch.setattr(rounds, "fine_tune_all", train_here)
    return tmp_path / "cache" / "transfers"


def write_spots(folder: Path, counts: Mapping[str, int] = COUNTS, *, seed: int = 0) -> Path:
    """Images with a bright spot whose place and colour say the class."""
    rng = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        y, x = divmod(number, 2)
        for i in range(count):
            pixels = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[8 * y : 8 * y + 6, 8 * x : 8 * x + 6, number % 3] = 230
            Image.fromarray(pixels).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spots(tmp_path_factory.mktemp("data") / "spots")


@pytest.fixture(scope="module")
def other_spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spots(tmp_path_factory.mktemp("data") / "test", seed=1)


def ask(start: Path, data: Path, **changes: Any) -> SpecializeRequest:
    usual = {"device": "jetson", "constraint": ("macs<=200K",), "init": str(start)}
    return SpecializeRequest(**{**usual, "data": str(data), "time": "10min", **changes})


def files_of(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_photos_become_a_bundle(tiny: Path, spots: Path, other_spots: Path, own_world: Path):
    said = list[str]()
    asked = ask(tiny, spots, test=str(other_spots))
    result = specialize(asked, out=Path("first"), say=said.append)
    assert all(check.passed for check in verify_bundle(result.folder))
    record = result.record
    assert record.costs.macs <= 200e3
    assert (record.accuracy.split, record.accuracy.images) == ("test", 80)
    (folder,) = own_world.glob("*/")
    assert any(str(folder) in line for line in said), "the folder is named"
    assert any("elastic epochs" in line for line in said)

    # The delivered network is the one of a folder, and its accuracy is that of its file.
    told = record.retraining
    assert told is not None
    assert told.candidates[0].arch_id == result.arch.id
    trained = load_supernet(folder / "elastic")
    assert trained.classes == tuple(sorted(COUNTS))
    assert trained.preprocessing.mean == load_supernet(tiny).preprocessing.mean
    images = load_images(str(spots), stored=16)
    parts, calibration = divide_as_trained(trained, images)
    space, matching = trained.supernet.space, 0
    for path in folder.glob(f"alone/{result.arch.id}-*"):
        network = load_trained(path, space, result.arch)
        calibrate(network, calibration, preprocessing=trained.preprocessing)
        given = {"preprocessing": trained.preprocessing, "split": "validation"}
        score = measure_accuracy(network, parts.validation, **given).value
        matching += score == told.candidates[0].after
    assert matching

    # The original competes at the largest resolution that fits.
    alone = [p.name.partition("-")[0] for p in folder.glob("alone/*/")]
    fits = [
        arch.id
        for r in sorted(space.resolutions)
        for arch in [replace(space.largest(), resolution=r)]
        if total(space, arch).macs <= 200e3
    ]
    assert fits[-1] in alone

    # The same again is the same bundle, and nothing is learnt a second time.
    before = files_of(folder)
    again = specialize(asked, out=Path("again"))
    assert Path("again/model.onnx").read_bytes() == Path("first/model.onnx").read_bytes()
    assert again.arch == result.arch
    assert files_of(folder) == before
    assert specialize(asked, out=Path("first")).existed


@pytest.mark.slow
def test_another_budget_costs_its_own_fine_tuning_alone(tiny: Path, spots: Path, own_world: Path):
    asked = ask(tiny, spots)
    specialize(asked, out=Path("first"))
    (folder,) = own_world.glob("*/")
    before = files_of(folder)
    asked = replace(asked, constraint=("macs<=80K",), time="5min")
    second = specialize(asked, out=Path("2nd"))
    assert second.record.costs.macs <= 80e3
    after = files_of(folder)
    assert {path: after[path] for path in before} == before, "nothing is written anew"
    assert sum(path.endswith("job.json") for path in after) > sum(
        path.endswith("job.json") for path in before
    )

    # Without any time the best of what is there is delivered.
    said = list[str]()
    quick = replace(asked, constraint=("macs<=150K",), time="0")
    third = specialize(quick, out=Path("third"), say=said.append)
    assert files_of(folder) == after
    assert "time 0: no network is fine-tuned for this budget" in said
    assert third.record.costs.macs <= 150e3
    assert third.record.accuracy.value >= 0.5, "what was learnt before serves here too"


def read_arch(path: Path) -> Arch:
    return Arch.from_json(read_json(path, schema=job.JOB_SCHEMA)["arch"], where=str(path))


def test_pixels_are_not_held_twice(tiny: Path, spots: Path, monkeypatch: pytest.MonkeyPatch):
    held = list[Any]()

    def load(*given: Any, **rest: Any) -> Images:
        images = load_images(*given, **rest)
        pixels = images.pixels.numpy().copy()  # lives as long as any tensor of it
        held.append(weakref.ref(pixels))
        return replace(images, pixels=torch.from_numpy(pixels))

    def stop(request: TrainRequest, progress: Progress) -> None:
        gc.collect()
        raise EdgenasError(f"still held: {[one() is not None for one in held]}")

    monkeypatch.setattr(transfer, "load_images", load)
    monkeypatch.setattr(transfer, "plan_training", stop)
    with pytest.raises(EdgenasError, match=r"still held: \[False\]"):
        specialize(ask(tiny, spots), out=Path("bundle"))


def test_balance_goes_into_all_that_learns(
    tiny: Path, spots: Path, own_world: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = list[TrainRequest]()

    def stop(request: TrainRequest, planned: Any, **rest: Any) -> None:
        asked.append(request)
        raise EdgenasError("stopped here")

    monkeypatch.setattr(transfer, "train_as_planned", stop)
    monkeypatch.setattr(transfer, "plan_training", lambda request, progress: {})
    for balance in (None, 0.0, 1.0, 0.5):
        with pytest.raises(EdgenasError, match="stopped here"):
            specialize(ask(tiny, spots, balance=balance), out=Path("bundle"))
    assert [request.balance for request in asked] == [None, 0.0, 1.0, 0.5]
    folders = [request.out for request in asked]
    assert folders[0] == folders[1], "0 is what is usual"
    assert len(set(folders)) == 3, "others have learnt otherwise"
    for trained in (True, False):
        assert TRANSFER.alone_from(trained=trained, images=2000, balance=0.5).balance == 0.5
        assert TRANSFER.alone_from(trained=trained, images=2000).balance == 0

    keys = [key_values(ask(tiny, spots, balance=balance)) for balance in (None, 1.0)]
    assert "balance" not in keys[0]
    assert keys[1] == {**keys[0], "balance": 1.0}


def test_balance_is_refused_where_nothing_learns(tiny: Path, spots: Path):
    request = replace(ask(tiny, spots, balance=1.0), init=None, time=None, supernet=str(tiny))
    with pytest.raises(EdgenasError, match="--balance needs --data and --time: it says"):
        specialize(request, out=Path("bundle"))
    with pytest.raises(EdgenasError, match="balance must be at most 1, found 2"):
        specialize(ask(tiny, spots, balance=2.0), out=Path("bundle"))


def digest_of(folder: str) -> str:
    return hashlib.sha256(Path(folder, "model.onnx").read_bytes()).hexdigest()


@pytest.mark.slow
def test_cut_off_anywhere_it_goes_on_to_the_same_network(
    tiny: Path, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for place in (("training", 3), ("evaluating networks", 9), ("fine-tuning", 3)):

        def cut(name: str, at: int, total: int, words: str, place: Any = place) -> None:
            if (name, at) == place:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            specialize(ask(tiny, spots), out=Path("cut"), progress=cut)
        assert not Path("cut").exists()
    specialize(ask(tiny, spots), out=Path("cut"))
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "another"))
    specialize(ask(tiny, spots), out=Path("whole"))
    assert digest_of("cut") == digest_of("whole")


@pytest.mark.slow
def test_two_photos_of_each_class_are_enough(tiny: Path, tmp_path: Path, own_world: Path):
    few = write_spots(tmp_path / "few", dict.fromkeys(COUNTS, 2))
    result = specialize(ask(tiny, few, balance=1.0), out=Path("bundle"))
    assert result.record.accuracy.images == 4
    (folder,) = own_world.glob("*/")
    assert load_supernet(folder / "elastic").training["recipe"]["balance"] == 1
    jobs = [read_json(path, schema=job.JOB_SCHEMA) for path in folder.glob("alone/*/job.json")]
    assert {one["recipe"]["balance"] for one in jobs} == {1.0}


def test_a_time_that_is_too_short_says_what_it_was_for_before_anything_long(
    tiny: Path, spots: Path, own_world: Path, monkeypatch: pytest.MonkeyPatch
):
    def plan_slowly(course: Course, supernet: Supernet, *, seconds: float, most: int) -> None:
        assert seconds == pytest.approx(480 * TRANSFER.elastic_share)
        raise TooLittleTimeError("too short", least=300)

    monkeypatch.setattr(loop, "plan_epochs", plan_slowly)
    request = ask(tiny, spots, device="host", constraint=(), latency="5ms", time="8min")
    seen = list[str]()
    with pytest.raises(EdgenasError, match="8min of --time are too short") as error:
        specialize(request, out=Path("bundle"), progress=lambda step, *rest: seen.append(step))
    share = TRANSFER.elastic_share
    assert f"{duration(480 * share)} of them are for epochs of all networks" in error.value.message
    assert error.value.hint.startswith(f"give --time {math.ceil(5 / share)}min or more")
    assert "timing some steps" in seen
    assert "profiling" not in seen
    assert not list(own_world.glob("*/elastic"))


def test_what_was_planned_before_the_profile_is_what_is_trained(
    tiny: Path, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = TrainRequest(
        data=str(spots), out=tmp_path / "run", init=str(tiny), recipe="transfer", time="10min"
    )
    planned = supernets.plan_training(asked)
    assert (planned["epochs"], planned["accuracy_archs"]) == (2, 20)
    assert not asked.out.exists(), "nothing is trained"
    monkeypatch.setattr(loop, "plan_epochs", None)
    fewer = {"epochs": 1, "judge_every": 1, "accuracy_archs": 20}
    made = supernets.train_as_planned(asked, fewer, progress=no_progress, say=say_nothing)
    trained = load_supernet(made.folder)
    assert trained.training["recipe"]["epochs"] == made.epochs == 1


@pytest.mark.slow
def test_wrong_requests_are_refused(tiny: Path, spots: Path, tmp_path: Path, own_world: Path):
    one = write_spots(tmp_path / "one", {"north": 5})
    single = write_spots(tmp_path / "single", {"north": 5, "east": 1})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": None, "time": None}, "init needs --data"),
        ({"data": None, "init": None}, "time needs --data"),
        ({"supernet": str(tiny)}, "init and supernet cannot be given together"),
        ({"retrain_top": 1}, "init and retrain_top cannot be given together"),
        ({"strategy": "gumbel", "weights": "joint"}, "init and weights cannot be given together"),
        ({"constraint": ("macs<=1K",)}, "no network of space tiny keeps macs<=1K"),
        ({"latency": "1us"}, "no network of space tiny keeps latency"),
        ({"time": "soon"}, "time must be a number with a unit"),
        ({"time": "0"}, "no weights have learnt these images yet, --time 0 leaves no time"),
        ({"time": "3s"}, "--time 3s leaves no time"),
        ({"init": "lite9"}, "lite9"),
        ({"data": str(tmp_path / "absent")}, "absent"),
        ({"data": str(one)}, "must have at least 2 classes"),
        ({"data": str(single)}, "class 'east' must have at least 2 images"),
    ]
    for changes, words in cases:
        with pytest.raises(EdgenasError, match=words) as error:
            specialize(replace(ask(tiny, spots), **changes), out=Path("bundle"))
        assert len(error.value.message) <= 300
        assert not Path("bundle").exists()
    Path("taken").mkdir()
    Path("taken/notes.txt").touch()
    with pytest.raises(EdgenasError, match="holds a file that is no part of a bundle"):
        specialize(ask(tiny, spots), out=Path("taken"))
    assert not list(own_world.glob("*/elastic")), "nothing was learnt in vain"
    # What was refused decides nothing: another time is as welcome.
    specialize(ask(tiny, spots, time="20min"), out=Path("bundle"))


def test_a_device_at_hand_is_profiled_briefly_before_anything_learns(
    tiny: Path, spots: Path, own_world: Path, monkeypatch: pytest.MonkeyPatch
):
    plans = list[ProfilePlan]()

    def profile(space: Any, *, plan: ProfilePlan, **rest: Any) -> None:
        plans.append(plan)
        raise EdgenasError("stopped here")

    monkeypatch.setattr(latency, "profile", profile)
    request = ask(tiny, spots, device="host", constraint=(), latency="5ms")
    with pytest.raises(EdgenasError, match="stopped here"):
        specialize(request, out=Path("bundle"))
    assert [plan.time_budget for plan in plans] == [TRANSFER.profile_seconds]
    assert not list(own_world.glob("*/elastic"))


def test_a_published_network_is_the_start_where_the_classes_are_others(spots: Path):
    inputs = SharedInputs()
    usual = SpecializeRequest(device="jetson")
    assert choose_start(usual, inputs) == usual
    cifar = replace(usual, data="cifar10")
    assert choose_start(cifar, inputs) == replace(cifar, supernet="mbv3-cifar10")
    assert choose_start(replace(usual, data=str(spots)), inputs).init == "lite0"
    assert choose_start(replace(usual, time="5min"), inputs).init == "lite0"
    own = replace(usual, data=str(spots), supernet="mine")
    assert choose_start(own, inputs) == own


@pytest.fixture
def machine(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, as one on which networks that a test names are faster than predicted."""
    space = load_supernet(tiny).supernet.space.with_classes(len(COUNTS))
    made = Machine(space, profiled(space))
    monkeypatch.setattr(building, "measure_network", made)
    return made


class StandIn:
    """A bench on which archs take known seconds, and are predicted to take twice as long."""

    def __init__(self, seconds: Mapping[Arch, float], space: Space) -> None:
        self.by_arch, self.space, self.timed = seconds, space, list[Arch]()

    def find(self, arch: Arch) -> None:
        return None

    def correct(self) -> Any:
        return lambda rows: [2 * self.by_arch[arch] for arch in self.space.decode(rows)]

    def measure_briefly(self, built: Arch) -> Any:
        self.timed.append(built)
        return self, built

    def seconds(self, built: Arch) -> float:
        return self.by_arch[built]


def test_every_fine_tuned_network_that_is_not_hopeless_is_timed(monkeypatch: pytest.MonkeyPatch):
    space = presets.tiny()
    large, small = space.largest(), space.smallest()
    low = replace(large, resolution=min(space.resolutions))
    bench: Any = StandIn({large: 1.7, low: 1.2, small: 0.8}, space)
    prepared: Any = SimpleNamespace(
        space=space,
        budget=1.0,
        constraints=(),
        latency=SimpleNamespace(target=None),
        request=SimpleNamespace(confidence=0.95),
        progress=no_progress,
    )
    monkeypatch.setattr(contenders, "build", lambda prepared, arch, network: arch)
    supernet = Supernet(space)
    earlier = {
        arch: Contender(network=supernet.extract(arch), start="inherited")
        for arch in (large, low, small)
    }
    found, _ = find_fitting(prepared, [earlier[large], earlier[small]], bench, most=2)
    assert found == [earlier[small]], "predicted to take 1.6 times the budget, it takes 0.8"
    assert bench.timed == [small], "3.4 times the budget is hopeless"
    bench.timed.clear()
    found, _ = find_fitting(prepared, [earlier[low], earlier[large]], bench, most=2)
    assert (found, bench.timed) == ([], [low]), "more pixels cost more"
    found, _ = find_fitting(prepared, [earlier[small], earlier[low]], bench, most=1)
    assert (found, bench.timed) == ([earlier[small]], [low, small]), "the best is enough"


@pytest.mark.slow
def test_what_was_fine_tuned_is_timed_whatever_was_predicted(
    tiny: Path,
    spots: Path,
    own_world: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
):
    def score(prepared: Prepared, contender: Contender) -> Contender:
        """Eight images tell nothing: fine-tuning is worth it here."""
        return replace(contender, score=0.9 if contender.epochs else 0.5)

    monkeypatch.setattr(fine_tuning, "with_score", score)
    asked = ask(tiny, spots, device="host", constraint=(), latency="50ms")
    specialize(asked, out=Path("first"))
    space = machine.space
    folders = {path.parent: read_arch(path) for path in own_world.glob("*/alone/*/job.json")}
    seconds = {folder: machine.true(space.encode([arch]))[0] for folder, arch in folders.items()}
    slowest = max(seconds, key=lambda folder: seconds[folder])
    for folder in set(folders) - {slowest}:
        shutil.rmtree(folder)

    # By the table it takes twice the budget; it was fine-tuned before, and keeps it.
    budget = float(seconds[slowest]) / 2
    machine.factor = lambda arch, number, final: 0.4 if arch == folders[slowest] else 1.0
    asked = replace(asked, latency=f"{1e3 * budget:.6f}ms", time="0")
    result = specialize(asked, out=Path("second"))
    assert result.arch == folders[slowest]
    assert result.record.retraining is not None
    assert result.record.promises[0].value == pytest.approx(0.8 * budget)

    # What is hopeless is not timed.
    machine.told.clear()
    tight = replace(asked, latency=f"{1e3 * budget / 1.6:.6f}ms")
    assert specialize(tight, out=Path("third")).arch != folders[slowest]
    assert folders[slowest].id not in [arch for arch, *_ in machine.told]


@given(
    contenders=st.integers(1, 6),
    seconds=st.floats(1, 1e4),
    epoch=st.floats(0.01, 1e3),
    at_once=st.integers(1, 4),
)
def test_rounds_share_the_time(contenders: int, seconds: float, epoch: float, at_once: int):
    planned = plan_rounds(
        TRANSFER, contenders=contenders, seconds=seconds, epoch=epoch, at_once=at_once
    )
    spent = sum(r.seconds * -(-r.networks // at_once) for r in planned)
    assert spent == pytest.approx(seconds)
    counts = [r.networks for r in planned]
    assert counts == sorted(set(counts), reverse=True), "ever fewer"
    assert counts[0] <= contenders
    for early in planned[:-1]:
        assert early.seconds >= TRANSFER.fewest_epochs * epoch


def test_what_was_trained_longer_counts():
    space = presets.tiny()
    network = Supernet(space).extract(space.smallest())

    def contender(name: str, score: float, before: str = "") -> Contender:
        folder = Path(name) if before else None
        return Contender(
            network=network, start="inherited", folder=folder, score=score, before=before
        )

    first = contender("", 0.80)
    second, third = contender("b", 0.79, first.key), contender("c", 0.70, "b")
    assert leave_out_beginnings([first, second]) == [second]
    assert leave_out_beginnings([first, second, third]) == [second], "0.70 is clearly worse"


def test_train_takes_the_recipe_by_name(tiny: Path, spots: Path, tmp_path: Path):
    asked = TrainRequest(data=str(spots), out=tmp_path / "run", init=str(tiny), recipe="transfer")
    made = supernets.train(asked)
    trained = load_supernet(made.folder)
    assert trained.supernet.space.name == "tiny", "the space of the start"
    assert trained.training["recipe"]["epochs"] == made.epochs == 2
    assert trained.training["recipe"]["learning_rate"] == TRANSFER.elastic.learning_rate
    with pytest.raises(EdgenasError, match="recipe transfer needs --init"):
        supernets.train(replace(asked, init=None, space="tiny"))
    with pytest.raises(EdgenasError, match="missing option '--space'"):
        supernets.train(replace(asked, init=None, recipe=None))


def test_the_recipe_suits_few_images():
    few = TRANSFER.fit(TRANSFER.alone, images=10)
    assert few.batch == 10
    assert few.epochs == TRANSFER.fewest_steps
    many = TRANSFER.fit(TRANSFER.alone, images=100_000)
    assert many == TRANSFER.alone
