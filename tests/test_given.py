"""A network that the user names is delivered without a search, with the weights of its supernet."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.export import run_onnx
from edgenas.model.saved import TrainedSupernet, save_supernet
from edgenas.model.supernet import Supernet
from edgenas.space.arch import save_arch
from edgenas.space.presets import load_space, tiny

Run = Callable[..., SimpleNamespace]
GIVEN = ("specialize", "--device", "jetson", "--supernet", "mbv3-cifar10", "--arch")


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedSupernet:
    """A supernet around a "published" network, in the folder ``net``: no images, no predictor."""
    monkeypatch.chdir(tmp_path)
    supernet = Supernet(tiny(), seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    for name, buffer in supernet.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(noise - 0.5 if name.endswith("mean") else 0.5 + noise)
    supernet.original = tiny().largest()
    trained = TrainedSupernet(
        supernet=supernet,
        classes=tuple(f"class {i}" for i in range(10)),
        preprocessing=Preprocessing(stored=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        training={},
    )
    save_supernet(Path("net"), trained, dtype=torch.float32)
    return trained


def refused(done: SimpleNamespace, *words: str) -> None:
    assert done.code == 2, done.log
    assert all(word in done.log for word in words), done.log
    assert "Traceback" not in done.log


@pytest.mark.slow
def test_the_original_is_delivered_as_it_was_published(edgenas: Run, imported: TrainedSupernet):
    words = ("specialize", "--device", "jetson", "--supernet", "net", "--arch", "original")
    done = edgenas(*words, "--out", "bundle")
    assert done.code == 0, done.log
    assert "accuracy" in done.out
    assert "unknown" in done.out
    assert "most accurate" not in done.out + done.log
    supernet = imported.supernet
    assert supernet.original is not None
    network = supernet.extract(supernet.original)  # never calibrated
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        wanted = network(images).numpy()
    onnx = Path("bundle/model.onnx").read_bytes()
    np.testing.assert_allclose(run_onnx(onnx, images.numpy()), wanted, atol=1e-4)
    report = json.loads(Path("bundle/report.json").read_text(encoding="utf-8"))
    assert report["accuracy"]["kind"] == "unknown"
    assert any("images of noise" in note for note in report["notes"])
    assert "unknown" in Path("bundle/report.html").read_text(encoding="utf-8")
    again = edgenas(*words, "--out", "bundle")
    assert again.code == 0
    assert "this very bundle already" in again.out
    exported = edgenas("export", "bundle", "--to", "onnx", "--out", "exported")
    assert exported.code == 0, exported.log
    # The bundle's is what an old TensorRT reads; the exported one is the usual form of the same.
    plain = Path("exported/model.onnx").read_bytes()
    np.testing.assert_allclose(run_onnx(plain, images.numpy()), wanted, atol=1e-4)


def test_another_resolution_of_the_original_is_the_original_too(
    edgenas: Run, imported: TrainedSupernet
):
    save_arch(tiny().restrict(resolution=[12]).largest(), Path("small.json"))
    words = ("specialize", "--device", "jetson", "--supernet", "net", "--arch", "small.json")
    assert edgenas(*words, "--out", "bundle").code == 0
    # Any other network must be calibrated.
    save_arch(tiny().smallest(), Path("other.json"))
    refused(edgenas(*words[:-1], "other.json"), "carries no calibration images", "--data")


def test_a_network_of_a_file_is_delivered_and_held_to_the_budgets(
    edgenas: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    space = load_space("mbv3-cifar")
    arch = space.decode(space.sample(1, rng=np.random.default_rng(7)))[0]
    save_arch(arch, Path("arch.json"))
    words = (*GIVEN, "arch.json")
    done = edgenas(*words, "--latency", "50ms", "--json")
    assert done.code == 0, done.log
    result = json.loads(done.out)
    assert result["arch_id"] == arch.id
    assert result["report"]["accuracy"]["kind"] == "predicted"
    refused(
        edgenas(*words, "--latency", "0.1ms"),
        f"the network {arch.id} does not keep latency<=0.1ms: it needs",
        "leave out --arch",
    )
    refused(edgenas(*words, "--params", "200K"), "does not keep params<=200K")
    largest = edgenas(*GIVEN, "largest", "--json")
    assert json.loads(largest.out)["arch_id"] == space.largest().id


def test_what_cannot_be_delivered_is_refused(
    edgenas: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = GIVEN
    refused(edgenas(*words, "original"), "needs an imported supernet", "--arch largest")
    refused(edgenas(*words, "none.json"), "--arch must be original, largest or an arch file")
    save_arch(tiny().largest(), Path("tiny.json"))
    refused(edgenas(*words, "tiny.json"), "in space mbv3-cifar")
    Path("broken.json").write_text("{", encoding="utf-8")
    refused(edgenas(*words, "broken.json"), "broken.json")
    refused(
        edgenas(*words, "largest", "--retrain-top", "2", "--data", "x"), "only int8 weights learn"
    )
