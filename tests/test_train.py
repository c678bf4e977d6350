"""Training learns, is the sandwich rule it says, and survives being cut off at any moment."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import toy_images

from edgenas.basics import files
from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images, split
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network
from edgenas.model.saved import TrainedSupernet, load_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.plan import plan
from edgenas.space.presets import mbv3_cifar, mbv3_photo, tiny
from edgenas.space.space import Space
from edgenas.training import start
from edgenas.training.augment import crop, shift
from edgenas.training.course import choose_indices
from edgenas.training.division import split_as_trained
from edgenas.training.loop import TrainingProgress, train
from edgenas.training.options import TrainingOptions
from edgenas.training.recipe import Recipe, learning_rate
from edgenas.training.runs import CHECKPOINT, METRICS, RUN, TENSORBOARD
from edgenas.training.sampling import draw_fairly
from edgenas.training.start import find_split_seed
from edgenas.training.step import TrainingBatch, sandwich_step

OLD = ROOT / "tests" / "data" / "run-1"
RECIPE = Recipe(
    epochs=2,
    batch=16,
    learning_rate=0.1,
    calibration=48,
    validation=0.2,
    watched=2,
    checkpoint_seconds=0.0,
)


@pytest.fixture(scope="module")
def toys() -> Images:
    return toy_images(60)


def given_weights(space: Space, classes: tuple[str, ...]) -> TrainedSupernet:
    """A supernet to start from."""
    return TrainedSupernet(
        supernet=Supernet(space.with_classes(len(classes)), seed=9),
        classes=classes,
        preprocessing=Preprocessing(stored=16, mean=(0.5,) * 3, std=(0.2,) * 3),
        training={},
    )


class CutOffError(Exception):
    """The moment at which a test stops a training."""


def cut_off_at(step: int) -> Callable[[TrainingProgress], None]:
    def tell(progress: TrainingProgress) -> None:
        if progress.step == step:
            raise CutOffError

    return tell


def start_and_cut_off(toys: Images, out: Path, *, step: int, recipe: Recipe = RECIPE) -> None:
    with pytest.raises(CutOffError):
        train(tiny(), toys, recipe=recipe, out=out, progress=cut_off_at(step))


def metrics(out: Path) -> list[dict]:
    """The lines without the clock."""
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


# It learns


@pytest.fixture(scope="module")
def learnt(toys: Images, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("learnt") / "run"
    recipe = dataclasses.replace(RECIPE, epochs=8)
    told: list[TrainingProgress] = []
    return train(tiny(), toys, recipe=recipe, out=out, progress=told.append), told, out


def test_the_loss_falls_and_the_accuracy_rises(learnt):
    trained, told, _ = learnt
    losses = [p.loss for p in told if not p.note]
    # Label smoothing of 0.1 over 3 classes leaves a loss of 0.29 to the best there is.
    assert np.mean(losses[:3]) > 1.0
    assert np.mean(losses[-3:]) < 0.6
    first, last = (trained.training["curve"][i]["validation"] for i in (0, -1))
    assert len(first) == 2
    assert min(last) >= 0.9 > 1 / 3


def test_every_step_is_told(learnt):
    _, told, _ = learnt
    steps = [p.step for p in told if not p.note]
    assert steps == list(range(1, 25))
    assert {p.steps for p in told} == {24}
    assert told[-1].epoch == 8
    assert [p.step for p in told if p.note] == list(range(3, 25, 3))
    assert all(p.note.startswith("validation: largest ") for p in told if p.note)


def test_the_record_of_a_training(learnt, toys: Images):
    trained, _, out = learnt
    record = trained.training
    assert record["train_images"] + record["validation_images"] == len(toys) == 60
    assert record["validation_images"] == 12
    assert record["recipe"]["epochs"] == 8
    assert record["data"] == {
        "source": "toys",
        "digest": toys.digest,
        "classes": 3,
        "images": 60,
    }
    assert [point["epoch"] for point in record["curve"]] == list(range(1, 9))
    assert trained.classes == toys.classes
    assert trained.supernet.space == tiny().with_classes(3)
    assert not trained.supernet.training
    assert json.loads(json.dumps(record)) == record
    names = {p.name for p in out.iterdir()} - {TENSORBOARD}
    assert names == {CHECKPOINT, METRICS, RUN}


def test_metrics_are_json_lines(learnt):
    _, _, out = learnt
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    losses = [line for line in lines if "losses" in line]
    # Every 20 steps and at the end of every epoch of 3.
    assert [line["step"] for line in losses] == sorted({*range(3, 25, 3), 20})
    assert all(len(line["losses"]) == 4 for line in losses)
    seconds = [line["seconds"] for line in losses]
    assert seconds == sorted(seconds)
    points = [line for line in lines if "validation" in line]
    assert [point["epoch"] for point in points] == list(range(1, 9))
    assert all(0 <= value <= 1 for point in points for value in point["validation"])


def test_a_finished_training_resumes_to_itself(learnt, toys: Images):
    trained, _, out = learnt
    recipe = dataclasses.replace(RECIPE, epochs=8)
    again = train(tiny(), toys, recipe=recipe, out=out, resume=True)
    for name, tensor in trained.supernet.state_dict().items():
        assert torch.equal(again.supernet.state_dict()[name], tensor), name
    assert again.training["curve"] == trained.training["curve"]


# It is the sandwich rule


def scattered(supernet: Supernet, network: Network, gradients: dict[str, Tensor]) -> None:
    """Add the gradients of an extracted network to those of the largest weights, by hand."""
    for name, _ in plan(supernet.space, network.arch):
        module, block = network.get_submodule(name), supernet.get_submodule(name)
        for key, small in module.named_parameters():
            large, gradient = block.get_parameter(key).detach(), small.grad
            assert gradient is not None
            where = tuple(slice(0, n) for n in gradient.shape)
            if key == "depthwise.conv.weight" and small.shape[-1] == 3 and large.shape[-1] == 5:
                # small = centre @ matrix.T, so the centre gets gradient @ matrix.
                matrix = block.get_parameter("kernel_5to3").detach()
                centre = large[: len(small), :, 1:4, 1:4].reshape(-1, 9)
                flat = gradient.reshape(-1, 9)
                gradients[f"{name}.kernel_5to3"] += flat.T @ centre
                where = (where[0], where[1], slice(1, 4), slice(1, 4))
                gradient = (flat @ matrix).reshape(gradient.shape)
            gradients[f"{name}.{key}"][where] += gradient


def test_the_gradient_of_a_step_is_the_sum_of_separate_ones():
    space = tiny().with_classes(3)
    toys = toy_images(24)
    preprocessing = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    rows = space.sample(4, rng=np.random.default_rng(1), by="gene")
    archs = [space.largest(), space.smallest(), *space.decode(rows)]
    supernet = Supernet(space, seed=5).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in supernet.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)

    class Exact:
        """Preprocessing in float64."""

        def prepare(self, pixels: Tensor, *, resolution: int) -> Tensor:
            return preprocessing.prepare(pixels, resolution=resolution).double()

    prepared = Exact()
    losses = sandwich_step(
        supernet,
        archs,
        TrainingBatch(pixels=toys.pixels, labels=toys.labels),
        recipe=Recipe(),
        preprocessing=prepared,  # type: ignore[arg-type]
    )
    wanted = {n: torch.zeros_like(p) for n, p in supernet.named_parameters()}
    target, wanted_losses = None, []
    for arch in archs:
        network = supernet.extract(arch)
        logits = network(prepared.prepare(toys.pixels, resolution=arch.resolution))
        logs = logits - logits.exp().sum(1, keepdim=True).log()
        if target is None:
            target = F.one_hot(toys.labels, 3).double() * 0.9 + 0.1 / 3
            loss = -(target * logs).sum(1).mean()
            target = logs.detach().exp()
        else:
            loss = -(target * logs).sum(1).mean()
        loss.backward()
        wanted_losses.append(loss.item())
        scattered(supernet, network, wanted)
    assert losses == pytest.approx(wanted_losses, rel=1e-9)
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-6, atol=1e-9)
        assert parameter.grad.any(), name


# It survives

KILLED = r"""
import os, sys
sys.path.insert(0, "tests")
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_train import RECIPE, tiny, toy_images, train
from edgenas.model.saved import save_supernet
import dataclasses

def say(text):
    os.write(1, f"{text}\n".encode())  # whole or not at all, whenever the kill comes

def run(out):
    recipe = dataclasses.replace(RECIPE, epochs=3)
    trained = train(tiny(), toy_images(60), recipe=recipe, out=out, resume=True,
        progress=lambda progress: say(f"step {progress.step}"))
    save_supernet(out, trained, dtype=torch.float32)

# Each attempt is a child of this process, which has imported all that a training does, some of it
# at the first step only.
run(Path(sys.argv[1]))
for line in sys.stdin:
    out = Path(line.strip())
    child = os.fork()
    if child == 0:
        run(out)
        say("done")
        os._exit(0)
    say(f"child {child}")
    os.waitpid(child, 0)
    say("ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [1, 20])
def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path, wanted: int):
    seed = int.from_bytes(os.urandom(4), "big")
    rng = np.random.default_rng(seed)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "first")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def attempt(out: Path, *, kill_after: float | None) -> tuple[list[str], float]:
        """Run until it is done or ``kill_after`` seconds behind its first step have passed."""
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{out}\n")
        process.stdin.flush()
        while not (line := process.stdout.readline()).startswith("child"):
            assert line, "the process that starts them has ended"
        child = int(line.split()[1])
        lines, began, timer = [], 0.0, None
        for line in process.stdout:
            if not lines:
                began = time.monotonic()
                if kill_after is not None:
                    timer = threading.Timer(kill_after, os.kill, (child, signal.SIGKILL))
                    timer.start()
            if line == "ended\n":
                break
            lines.append(line.strip())
        if timer is not None:
            timer.cancel()
        return lines, time.monotonic() - began

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    try:
        lines, seconds = attempt(whole, kill_after=None)
        assert lines[-1] == "done"
        moments: list[float] = []
        while len(moments) < wanted:
            moments.append(float(rng.uniform(0, 1.25 * seconds / wanted)))
            lines, _ = attempt(killed, kill_after=moments[-1])
            if lines and lines[-1] == "done":  # faster than the whole run was: once more from zero
                shutil.rmtree(killed)
                moments.clear()
        lines, _ = attempt(killed, kill_after=None)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    said = f"seed {seed}, killed after {moments} s"
    assert lines[-1] == "done", said
    assert len(moments) == wanted, said
    weights = [(out / "weights.safetensors").read_bytes() for out in (whole, killed)]
    assert weights[0] == weights[1], said
    assert metrics(whole) == metrics(killed), said
    ends = [load_tensors(out / CHECKPOINT) for out in (whole, killed)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items()), said
    assert [p.name for p in killed.iterdir() if p.name.startswith(".")] == [], said


def test_a_cut_off_run_goes_on_where_it_was(toys: Images, tmp_path: Path):
    whole = train(tiny(), toys, recipe=RECIPE, out=tmp_path / "whole")
    start_and_cut_off(toys, tmp_path / "cut", step=5)
    # The last line may be half a line.
    with (tmp_path / "cut" / METRICS).open("a") as stream:
        stream.write('{"step": 5, "los')
    told: list[TrainingProgress] = []
    out = tmp_path / "cut"
    again = train(tiny(), toys, recipe=RECIPE, out=out, resume=True, progress=told.append)
    assert told[0].step == 5  # done before the checkpoint could be written, so done again
    for name, tensor in whole.supernet.state_dict().items():
        assert torch.equal(again.supernet.state_dict()[name], tensor), name
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert again.training["curve"] == whole.training["curve"]


def test_a_run_cut_off_before_its_first_checkpoint_starts_over(toys: Images, tmp_path: Path):
    out, recipe = tmp_path / "run", dataclasses.replace(RECIPE, checkpoint_seconds=1e9)
    start_and_cut_off(toys, out, step=2, recipe=recipe)
    assert not (out / CHECKPOINT).exists()
    (out / METRICS).write_text('{"step": 2, "losses": [1, 1, 1, 1]}\n{"step"')
    train(tiny(), toys, recipe=recipe, out=out, resume=True)
    train(tiny(), toys, recipe=recipe, out=tmp_path / "whole")
    assert metrics(out) == metrics(tmp_path / "whole")


def test_a_run_killed_while_writing_its_first_file_starts(toys: Images, tmp_path: Path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".run.json.abc123").write_text('{"sch')
    start_and_cut_off(toys, out, step=1)
    assert (out / "run.json").exists()


def test_a_run_of_an_older_edgenas_goes_on(tmp_path: Path):
    out = shutil.copytree(OLD, tmp_path / "run")
    told: list[TrainingProgress] = []
    toys = toy_images(30)
    recipe = dataclasses.replace(RECIPE, epochs=2, batch=8, calibration=24, watched=4)
    trained = train(tiny(), toys, recipe=recipe, out=out, resume=True, progress=told.append)
    assert told[0].step == 4
    assert [point["epoch"] for point in trained.training["curve"]] == [1, 2]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "--resume: seed of the run in .* is 0, now it is 1"),
        (
            {"recipe": dataclasses.replace(RECIPE, epochs=3)},
            "--resume: recipe.epochs of the run in .* is 2, now it is 3",
        ),
        (
            {"recipe": dataclasses.replace(RECIPE, learning_rate=0.2, random_archs=3)},
            "--resume: recipe.learning_rate of the run in .* is 0.1, now it is 0.2",
        ),
        ({"images": toy_images(60, seed=1)}, "--resume: data.digest of the run in"),
        (
            {"space": dataclasses.replace(tiny(), final=16)},
            "--resume: space.final of the run in .* is 32, now it is 16",
        ),
        (
            {"init": given_weights(tiny(), ("class 0", "class 1", "class 2"))},
            "--resume: init of the run in .* is null, now it is",
        ),
        (
            {"normalisation": ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))},
            "--resume: normalisation of the run in .* is null, now it is",
        ),
    ],
)
def test_resuming_with_other_arguments_is_refused(
    toys: Images, tmp_path: Path, change: dict, words: str
):
    start_and_cut_off(toys, tmp_path / "run", step=2)
    before = contents(tmp_path / "run")
    given = {"space": tiny(), "images": toys, "recipe": RECIPE, "seed": 0, "init": None} | change
    with pytest.raises(EdgenasError, match=words) as caught:
        train(
            given["space"],
            given["images"],
            recipe=given["recipe"],
            out=tmp_path / "run",
            resume=True,
            options=TrainingOptions(
                seed=given["seed"], init=given["init"], normalisation=given.get("normalisation")
            ),
        )
    assert "same arguments" in caught.value.hint
    assert contents(tmp_path / "run") == before


def test_inputs_are_normalised_as_asked_for(toys: Images, tmp_path: Path):
    asked = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    recipe, out = dataclasses.replace(RECIPE, epochs=1), tmp_path / "run"
    trained = train(
        tiny(), toys, recipe=recipe, out=out, options=TrainingOptions(normalisation=asked)
    )
    assert (trained.preprocessing.mean, trained.preprocessing.std) == asked
    usual = train(tiny(), toys, recipe=recipe, out=tmp_path / "usual")
    assert usual.preprocessing.mean != asked[0]
    # The same normalisation, given or found, is the same training.
    own = usual.preprocessing.mean, usual.preprocessing.std
    again = train(
        tiny(),
        toys,
        recipe=recipe,
        out=tmp_path / "again",
        options=TrainingOptions(normalisation=own),
    )
    for name, parameter in usual.supernet.named_parameters():
        assert torch.equal(again.supernet.get_parameter(name), parameter)


def test_resuming_with_other_threads_is_refused(toys: Images, tmp_path: Path):
    start_and_cut_off(toys, tmp_path / "run", step=1)
    torch.set_num_threads(2)
    with pytest.raises(EdgenasError, match=r"threads of the run in .* is 1, now it is 2"):
        train(tiny(), toys, recipe=RECIPE, out=tmp_path / "run", resume=True)


def test_an_out_that_exists_is_refused(toys: Images, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    for resume in (False, True):
        with pytest.raises(EdgenasError, match="exists and is no training run"):
            train(tiny(), toys, recipe=RECIPE, out=tmp_path / "mine", resume=resume)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["diary.txt"]
    start_and_cut_off(toys, tmp_path / "run", step=1)
    with pytest.raises(EdgenasError, match="already holds a training run") as caught:
        train(tiny(), toys, recipe=RECIPE, out=tmp_path / "run")
    assert "--resume" in caught.value.hint


def test_damaged_checkpoints_are_refused(toys: Images, tmp_path: Path):
    out = tmp_path / "run"
    start_and_cut_off(toys, out, step=3)
    path = out / CHECKPOINT
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 4
    for damaged in (b"", content[:100], content[:-5], flipped):
        path.write_bytes(damaged)
        with pytest.raises(EdgenasError, match=r"checkpoint\.safetensors is damaged"):
            train(tiny(), toys, recipe=RECIPE, out=out, resume=True)
    shutil.copy(ROOT / "tests" / "data" / "supernet-1" / "weights.safetensors", path)
    with pytest.raises(EdgenasError, match=r"checkpoint\.safetensors is no checkpoint of this"):
        train(tiny(), toys, recipe=RECIPE, out=out, resume=True)
    path.write_bytes(content)
    train(tiny(), toys, recipe=RECIPE, out=out, resume=True)


def test_a_full_disk_keeps_the_last_checkpoint(
    toys: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    start_and_cut_off(toys, out, step=3)
    before = (out / CHECKPOINT).read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(EdgenasError, match="no space left on the disk"):
            train(tiny(), toys, recipe=RECIPE, out=out, resume=True)
    assert (out / CHECKPOINT).read_bytes() == before
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    resumed = train(tiny(), toys, recipe=RECIPE, out=out, resume=True)
    whole = train(tiny(), toys, recipe=RECIPE, out=tmp_path / "whole")
    for name, tensor in whole.supernet.state_dict().items():
        assert torch.equal(resumed.supernet.state_dict()[name], tensor), name


def test_metrics_that_cannot_be_written(toys: Images, tmp_path: Path):
    out = tmp_path / "run"
    (out / METRICS).mkdir(parents=True)
    (out / "run.json").write_text("{}")
    with pytest.raises(EdgenasError):
        train(tiny(), toys, recipe=RECIPE, out=out, resume=True)


def test_training_pauses_while_the_machine_is_timed(toys: Images, tmp_path: Path):
    told: list[int] = []
    paused_at = threading.Event()

    def tell(progress: TrainingProgress) -> None:
        told.append(progress.step)
        paused_at.set()

    def work() -> None:
        torch.set_num_threads(1)  # a setting of each thread
        train(tiny(), toys, recipe=RECIPE, out=tmp_path / "run", progress=tell)

    thread = threading.Thread(target=work, daemon=True)
    with files.machine_lock():
        thread.start()
        assert not paused_at.wait(1.0)
    assert paused_at.wait(30)
    thread.join(60)
    assert told[-1] == 6
    # The pause is no training time.
    seconds = [json.loads(line).get("seconds", 0) for line in (tmp_path / "run" / METRICS).open()]
    assert max(seconds) < 60


# Where it starts from


@pytest.mark.parametrize(
    "classes", [("class 0", "class 1", "class 2"), ("a", "b", "c"), ("class 0", "class 1")]
)
def test_training_starts_from_given_weights(toys: Images, tmp_path: Path, classes):
    recipe = dataclasses.replace(RECIPE, learning_rate=0.0, weight_decay=0.0, epochs=1)
    init = given_weights(tiny(), classes)
    found = train(
        tiny(), toys, recipe=recipe, out=tmp_path / "run", options=TrainingOptions(init=init)
    ).supernet
    fresh = Supernet(tiny().with_classes(3), seed=0)
    for name, parameter in found.named_parameters():
        # A classifier of other classes is worth nothing, even of as many.
        kept = classes == toys.classes or not name.startswith("head.classifier")
        wanted = (init.supernet if kept else fresh).get_parameter(name)
        assert torch.equal(parameter, wanted), name


def test_weights_of_other_resolutions_and_strides_are_taken_over():
    supernet = Supernet(mbv3_photo().with_classes(3), seed=0)
    init = given_weights(mbv3_cifar(), tuple("abcdefghij"))
    start.copy_weights(init, supernet, classes=tuple("xyz"))
    for name, parameter in supernet.named_parameters():
        same = parameter.shape == init.supernet.get_parameter(name).shape
        assert same == (not name.startswith("head.classifier"))
        assert not same or torch.equal(parameter, init.supernet.get_parameter(name)), name


def test_weights_of_another_aspect_are_taken_over():
    wide = dataclasses.replace(tiny(), resolutions=(12, 15), aspect=(3, 5))
    supernet, init = Supernet(wide, seed=0), given_weights(tiny(), tuple("abcdefghij"))
    start.copy_weights(init, supernet, classes=tuple("abcdefghij"))
    for name, parameter in supernet.named_parameters():
        assert torch.equal(parameter, init.supernet.get_parameter(name)), name


def test_weights_of_another_space_are_refused(toys: Images, tmp_path: Path):
    init = given_weights(dataclasses.replace(tiny(), name="thin", final=16), toys.classes)
    with pytest.raises(
        EdgenasError, match="--init must have the stages of the space tiny, found thin"
    ):
        train(tiny(), toys, recipe=RECIPE, out=tmp_path / "run", options=TrainingOptions(init=init))
    assert not (tmp_path / "run").exists()


def test_too_few_images_and_divergence(toys: Images, tmp_path: Path):
    with pytest.raises(EdgenasError, match="must fill a batch of 64, found 48") as caught:
        recipe = dataclasses.replace(RECIPE, batch=64)
        train(tiny(), toys, recipe=recipe, out=tmp_path / "few")
    assert "a smaller batch: a line like batch = 8 in --recipe FILE.toml" in caught.value.hint
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0)
    with pytest.raises(EdgenasError, match="the training diverged at step") as caught:
        train(tiny(), toys, recipe=recipe, out=tmp_path / "wild")
    assert "smaller learning_rate" in caught.value.hint


# Averages and draws


def test_the_moving_average_is_what_is_judged_and_kept(toys: Images, tmp_path: Path):
    recipe = dataclasses.replace(RECIPE, ema=0.9)
    steps: list[dict[str, Tensor]] = []
    out = tmp_path / "run"

    def tell(progress: TrainingProgress) -> None:
        if not progress.note and (out / CHECKPOINT).exists():  # one step behind
            steps.append(load_tensors(out / CHECKPOINT))

    trained = train(tiny(), toys, recipe=recipe, out=out, progress=tell)
    steps.append(load_tensors(out / CHECKPOINT))
    # By hand: the weights after each step, from those of the start.
    start, moved = Supernet(tiny().with_classes(3), seed=0), 0
    for name, parameter in start.named_parameters():
        average = parameter.detach().double()
        for step, state in enumerate(steps):
            weight = 1 - min(0.9, (1 + step) / (10 + step))
            average = average + weight * (state[f"model.{name}"].double() - average)
        found = trained.supernet.get_parameter(name).double()
        torch.testing.assert_close(found, average, rtol=0, atol=1e-6)
        moved += not torch.equal(found.float(), steps[-1][f"model.{name}"])

    assert moved > 10

    # Cut off and gone on with, it is the same.
    start_and_cut_off(toys, tmp_path / "cut", step=4, recipe=recipe)
    again = train(tiny(), toys, recipe=recipe, out=tmp_path / "cut", resume=True)
    for name, parameter in trained.supernet.named_parameters():
        assert torch.equal(again.supernet.get_parameter(name), parameter)
    assert metrics(tmp_path / "cut") == metrics(out)


def test_balance_draws_rare_classes_as_often():
    images = toy_images(60).take(torch.arange(60)[toy_images(60).labels.argsort()][:44])
    sizes = images.labels.bincount(minlength=3)
    assert sizes.tolist() == [20, 20, 4]
    for balance, share in ((0.0, 4 / 44), (1.0, 1 / 3)):
        recipe = Recipe(balance=balance)
        drawn = torch.cat(
            [choose_indices(images, recipe, 44, seed=0, step=step) for step in range(50)]
        )
        found = (images.labels[drawn] == 2).double().mean().item()
        assert found == pytest.approx(share, abs=0.03)


def test_fair_sampling_uses_every_choice_equally_often():
    space = mbv3_cifar()
    rows = draw_fairly(space, 0, 36, seed=3)
    assert np.array_equal(
        rows, np.concatenate([draw_fairly(space, n, 4, seed=3) for n in range(0, 36, 4)])
    )
    assert not np.array_equal(rows, draw_fairly(space, 0, 36, seed=4))
    for column, gene in enumerate(space.genes):
        if not gene.optional:
            counts = np.bincount(rows[:, column], minlength=len(gene.values) + 1)
            assert counts[0] == 0
            assert set(counts[1:]) == {36 // len(gene.values)}, gene.name
    assert len(np.unique(rows, axis=0)) > 30


# The schedule


@given(
    epochs=st.integers(1, 30),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 5),
    peak=st.floats(1e-3, 1),
)
def test_the_learning_rate_warms_up_and_falls_to_zero(
    epochs: int, per_epoch: int, warmup: float, peak: float
):
    recipe = Recipe(learning_rate=peak, warmup=warmup)
    steps = epochs * per_epoch
    rates = np.array([learning_rate(step, steps, per_epoch, recipe) for step in range(steps)])
    warm = min(round(warmup * per_epoch), steps // 2)
    assert (rates > 0).all()
    assert rates.max() <= peak * (1 + 1e-9)
    rise, fall = rates[:warm], rates[warm:]
    assert np.allclose(np.diff(rise), peak / max(warm, 1))
    assert (np.diff(fall) <= 0).all()
    assert fall[0] == pytest.approx(peak)
    # Half-way through the fall it is at half the peak.
    middle = learning_rate(
        2 * warm + 50, 3 * warm + 100, 1, Recipe(learning_rate=peak, warmup=warm)
    )
    assert middle == pytest.approx(peak / 2)
    assert fall[-1] <= peak * (np.pi / 2 / len(fall)) ** 2 + peak * (len(fall) == 1)


# Augmentation

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, n=st.integers(1, 8), side=st.sampled_from((8, 16, 19)))
@pytest.mark.parametrize("kind", ["shift", "crop"])
def test_augmenting_keeps_shape_kind_and_range(kind: str, seed: int, n: int, side: int):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(50, 200, (n, 3, side, side), dtype=np.uint8))
    before = pixels.clone()
    views = {"shift": shift, "crop": crop}[kind](pixels, rng=np.random.default_rng(seed))
    again = {"shift": shift, "crop": crop}[kind](pixels, rng=np.random.default_rng(seed))
    assert views.shape == pixels.shape
    assert views.dtype == torch.uint8
    assert torch.equal(views, again)
    assert torch.equal(pixels, before)
    low, high = pixels.amin((1, 2, 3)), pixels.amax((1, 2, 3))
    assert (views.amin((1, 2, 3)) >= low).all()
    assert (views.amax((1, 2, 3)) <= high).all()


@given(seed=seeds)
def test_a_shift_is_a_window_of_the_image_reflected_at_its_borders(seed: int):
    side, margin = 16, 2
    pixels = torch.arange(3 * side * side).reshape(1, 3, side, side) % 251
    pixels = pixels.to(torch.uint8)
    view = shift(pixels, rng=np.random.default_rng(seed))[0]
    columns = np.arange(-margin, side + margin)
    columns = np.abs(columns)
    columns = np.where(columns >= side, 2 * (side - 1) - columns, columns)
    found = []
    for mirrored in (pixels[0].numpy(), pixels[0].numpy()[:, :, ::-1]):
        padded = mirrored[:, columns][:, :, columns]
        found += [
            np.array_equal(view.numpy(), padded[:, y : y + side, x : x + side])
            for y in range(2 * margin + 1)
            for x in range(2 * margin + 1)
        ]
    assert sum(found) == 1


def test_half_of_the_images_are_mirrored_and_all_shifts_occur():
    ramp = torch.arange(16, dtype=torch.uint8) * 10
    pixels = ramp.expand(4000, 3, 16, 16).contiguous()
    views = shift(pixels, rng=np.random.default_rng(0))
    row = views[:, 0, 8].int()
    mirrored = (row[:, 4] > row[:, 12]).float().mean().item()
    assert 0.46 < mirrored < 0.54
    centre = row[row[:, 4] < row[:, 12]][:, 8]
    counts = torch.bincount(centre // 10, minlength=16)[6:11].tolist()
    assert sum(counts) == len(centre)
    assert min(counts) > 0.8 * len(centre) / 5


def test_crops_cover_35_to_100_percent_of_the_image():
    # Along a ramp, the slope of a view is the width of its crop.
    side = 32
    ramp = (torch.arange(side) * 7).to(torch.uint8)
    pixels = ramp.expand(500, 3, side, side).contiguous()
    views = crop(pixels, rng=np.random.default_rng(0))[:, 0, 16].float()
    widths = (views[:, 24] - views[:, 8]).abs() / 16 / 7 * side
    assert widths.max() <= side + 1
    assert widths.min() >= np.sqrt(0.35 * 3 / 4) * side - 1.5
    assert 0.6 * side < widths.mean() < 0.95 * side


def test_what_was_learnt_from_is_never_set_aside(tmp_path: Path, toys: Images):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    first = train(
        tiny(), toys, recipe=recipe, out=tmp_path / "first", options=TrainingOptions(seed=3)
    )
    aside, other = (
        split(toys, validation=recipe.validation, seed=s).validation.pixels for s in (3, 4)
    )
    assert not torch.equal(aside, other)
    # Restarts with other seeds see the images in another order, divided as for the first weights.
    second = train(
        tiny(),
        toys,
        recipe=recipe,
        out=tmp_path / "second",
        options=TrainingOptions(seed=4, init=first),
    )
    third = train(
        tiny(),
        toys,
        recipe=recipe,
        out=tmp_path / "third",
        options=TrainingOptions(seed=5, init=second),
    )
    for trained in (first, second, third):
        assert torch.equal(split_as_trained(trained, toys)[1].pixels, aside)
    again = train(
        tiny(),
        toys,
        recipe=recipe,
        out=tmp_path / "again",
        options=TrainingOptions(seed=6, init=second),
    )
    ends = (next(t.supernet.parameters()) for t in (third, again))
    assert not torch.equal(*ends)
    # A run that is gone on with is divided as it was.
    resumed = train(
        tiny(),
        toys,
        recipe=recipe,
        out=tmp_path / "third",
        resume=True,
        options=TrainingOptions(seed=5, init=second),
    )
    assert resumed.training["split_seed"] == 3
    more = dataclasses.replace(recipe, validation=2 * recipe.validation)
    with pytest.raises(EdgenasError, match="has learnt from") as caught:
        train(
            tiny(),
            toys,
            recipe=more,
            out=tmp_path / "refused",
            options=TrainingOptions(seed=3, init=first),
        )
    assert f"validation = {recipe.validation}" in caught.value.hint
    assert not (tmp_path / "refused").exists()
    # The same images at another size have another digest.
    larger = dataclasses.replace(toys, digest="of larger pixels")
    assert find_split_seed(larger, recipe=recipe, seed=4, init=second) == 3
    others = dataclasses.replace(toys.take(torch.arange(len(toys) - 1)), digest="others")
    renamed = dataclasses.replace(toys, classes=("a", "b", "c"))
    assert find_split_seed(renamed, recipe=recipe, seed=4, init=first) == 4
    free = train(
        tiny(),
        others,
        recipe=recipe,
        out=tmp_path / "free",
        options=TrainingOptions(seed=4, init=first),
    )
    assert free.training["split_seed"] is None
