"""What every test gets: a world of its own, and a reason when something it needs is not there."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

# Beside other processes of the tests, threads only get into each other's way. The processes that
# tests start inherit this. NumPy's BLAS reads it when it is imported, so this stands before.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from edgenas.delivery.request import SpecializeRequest
    from edgenas.delivery.result import Result
    from edgenas.space.space import Space

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

# Two slow cores run the tests as well as a fast machine does: no deadlines. CI repeats itself.
settings.register_profile(
    "edgenas",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("edgenas")


def why_no_gpu() -> str:
    """The reason why the tests marked ``gpu`` cannot run here, or an empty string."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU here"


def pytest_xdist_auto_num_workers() -> int:
    """One process more than processors: tests wait for programs and links a fifth of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and (reason := why_no_gpu()):
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep the tests away from the user's cache, the user's data folder and the machine lock."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_CACHE", str(folder / "cache"))
        patch.setenv("XDG_DATA_HOME", str(folder / "share"))
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        patch.delenv("EDGENAS_PATH", raising=False)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    """Have torch compute with one thread, whatever a test asks for in between.

    Threads that wait for each other on cores that other tests use take many times as long.
    """
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def is_wide(line: str) -> bool:
    """Whether a line for people could be shorter: a long path or address cannot."""
    return len(line) > 100 and max(map(len, line.split())) <= 40


@pytest.fixture
def edgenas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """The command in this process: code, stdout and stderr; everything typed is one argument."""
    from edgenas import cli

    def run(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["edgenas", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, log = capsys.readouterr()
        wide = [line for line in out.splitlines() if is_wide(line)]
        assert "--json" in words or wide == [], "what people read has at most 100 columns"
        return SimpleNamespace(code=stop.value.code or 0, out=out, log=log)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that the project may read but not ship; skips where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def photos(own_folders: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders: 3 classes of 32 noisy images, told apart by their stripes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data") / "stripes"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:16, 0:16]
    for name, wave in {"across": y, "along": x, "slanted": x + y}.items():
        (folder / name).mkdir(parents=True)
        for i in range(32):
            stripes = np.sin(wave * 1.2 + rng.uniform(0, 6))[..., None] * 70 + 128
            pixels = np.clip(stripes + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def tiny(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of the space ``tiny``, really trained on ``photos`` for a moment."""
    from edgenas.space.presets import load_space

    folder = tmp_path_factory.mktemp("supernet") / "tiny"
    return teach(load_space("tiny"), photos, folder, epochs=3, learning_rate=0.2)


def teach(space: "Space", photos: Path, folder: Path, *, epochs: int, learning_rate: float) -> Path:
    """Train a supernet on photos for a moment, with its accuracy predictor; its folder."""
    import torch

    from edgenas.accuracy.measured import fit_accuracy
    from edgenas.images.loading import load_images
    from edgenas.model.saved import (
        ACCURACY_FILE,
        CALIBRATION_FILE,
        load_supernet,
        save_supernet,
        save_tensors,
    )
    from edgenas.training.division import split_as_trained
    from edgenas.training.loop import train
    from edgenas.training.recipe import Recipe

    images = load_images(str(photos), stored=16)
    recipe = Recipe(
        epochs=epochs, batch=24, validation=0.25, calibration=48, learning_rate=learning_rate
    )
    trained = train(space, images, recipe=recipe, out=folder)
    save_supernet(folder, trained, dtype=torch.float32)
    trained = load_supernet(folder)
    calibration, validation = split_as_trained(trained, images)
    predictor = fit_accuracy(
        trained,
        validation=validation,
        calibration=calibration,
        count=24,
        seed=0,
        name="stripes",
        journal=folder / "accuracies.jsonl",
    )
    predictor.save(folder / ACCURACY_FILE)
    save_tensors(folder / CALIBRATION_FILE, {"pixels": calibration})
    return folder


def check_delivery(
    space: "Space", photos: Path, folder: Path
) -> "tuple[SpecializeRequest, Result]":
    """Check that a network of a space is searched for, delivered, verified, and keeps its budget.

    Returns:
        What was asked for, and the result; its bundle is ``bundle`` in the folder.
    """
    from edgenas.bundle.verify import verify_bundle
    from edgenas.delivery.request import SpecializeRequest
    from edgenas.delivery.run import specialize

    supernet = teach(space, photos, folder / "supernet", epochs=2, learning_rate=0.1)
    budget = SpecializeRequest(
        device="host", constraint=("latency<=50ms",), supernet=str(supernet), data=str(photos)
    )
    result = specialize(budget, out=folder / "bundle")
    assert result.record.measured is not None
    assert 0 < result.record.measured.median <= 0.05
    checks = verify_bundle(folder / "bundle")
    assert {check.name for check in checks if check.passed} >= {"graph", "promises", "output"}
    assert all(check.passed for check in checks), [c for c in checks if not c.passed]
    return budget, result


@pytest.fixture(scope="session")
def rising(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The supernet ``tiny`` with an accuracy predictor of a known law: more MACs are better."""
    from edgenas.accuracy.predictor import AccuracyPredictor
    from edgenas.model.saved import ACCURACY_FILE, load_supernet
    from edgenas.space.cost import macs_table

    folder = tmp_path_factory.mktemp("rising") / "tiny"
    shutil.copytree(tiny, folder)
    space = load_supernet(folder).supernet.space
    rows = space.sample(200, rng=np.random.default_rng(0), by="gene")
    accuracy = 0.5 + 0.1 * np.log(macs_table(space)(rows) / 1e5)
    fitted = AccuracyPredictor.fit(space, rows, accuracy=accuracy, source="a law validation, n=24")
    fitted.save(folder / ACCURACY_FILE)
    return folder
