"""A supernet on disk comes back as it was, or not at all."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.images.preprocessing import Preprocessing
from edgenas.model import saved as module
from edgenas.model.saved import (
    TrainedSupernet,
    add_calibration,
    find_supernet,
    load_supernet,
    load_tensors,
    save_supernet,
    save_tensors,
)
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny

OLD = ROOT / "tests" / "data" / "supernet-1"


def some(seed: int = 3) -> TrainedSupernet:
    return TrainedSupernet(
        supernet=Supernet(tiny().with_classes(3), seed=seed).eval(),
        classes=("a", "b", "ü"),
        preprocessing=Preprocessing(stored=16, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        training={"seed": seed, "recipe": {"epochs": 2}, "curve": []},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_supernet(tmp_path / "net", some(), dtype=torch.float32)
    return tmp_path / "net"


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(EdgenasError) as caught:
        load_supernet(folder)
    for word in words:
        assert word in str(caught.value)
    assert len(caught.value.message.splitlines()) == 1


def vouch(folder: Path, **fields: object) -> None:
    """Write other fields into supernet.json and let it vouch for the weights as they are now."""
    path = folder / "supernet.json"
    value = json.loads(path.read_text()) | fields
    value.setdefault("weights", {"sha256": sha256(folder / "weights.safetensors")})
    if "weights" not in fields:
        value["weights"] = {"sha256": sha256(folder / "weights.safetensors")}
    path.write_text(json.dumps(value))


def test_images_of_another_aspect_than_the_space_are_refused(folder: Path):
    steps = json.loads((folder / "supernet.json").read_text())["preprocessing"]
    vouch(folder, preprocessing=steps | {"stored": [15, 25]})
    refused(folder, "preprocessing.stored must have the aspect [1, 1] of its space, found (15, 25)")


# Round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_supernet_comes_back(tmp_path: Path, dtype: torch.dtype):
    first = some()
    save_supernet(tmp_path, first, dtype=dtype)
    again = load_supernet(tmp_path)
    assert again.supernet.space == first.supernet.space
    assert not again.supernet.training
    state = again.supernet.state_dict()
    assert list(state) == list(first.supernet.state_dict())
    for name, tensor in first.supernet.state_dict().items():
        assert state[name].dtype in (torch.float32, torch.int64)
        wanted = tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        assert torch.equal(state[name], wanted), name
    fields = ("classes", "preprocessing", "training")
    assert all(getattr(again, name) == getattr(first, name) for name in fields)
    assert again.folder == tmp_path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["supernet.json", "weights.safetensors"]


def test_half_precision_takes_half_the_bytes(tmp_path: Path):
    for dtype in (torch.float32, torch.float16):
        save_supernet(tmp_path / str(dtype), some(), dtype=dtype)
    sizes = [
        sum(t.numel() * t.element_size() for t in load_file(path).values())
        for path in sorted(tmp_path.rglob("*.safetensors"))
    ]
    assert sizes[0] * 2 == sizes[1]


def test_statistics_are_kept_where_there_are_any(tmp_path: Path):
    first = some()
    norm = first.supernet.get_submodule("stages.1.0.depthwise.bn")
    norm.running_mean += 0.5
    norm.running_var *= 2
    save_supernet(tmp_path, first, dtype=torch.float32)
    names = [n for n in load_file(tmp_path / "weights.safetensors") if "running" in n]
    assert sorted(names) == [
        "stages.1.0.depthwise.bn.running_mean",
        "stages.1.0.depthwise.bn.running_var",
    ]
    again = load_supernet(tmp_path).supernet
    for name, tensor in first.supernet.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_same_supernet_is_the_same_files(tmp_path: Path):
    for name in ("one", "two"):
        save_supernet(tmp_path / name, some(), dtype=torch.float16)
    for file in ("supernet.json", "weights.safetensors"):
        assert sha256(tmp_path / "one" / file) == sha256(tmp_path / "two" / file)


def test_a_folder_of_an_older_edgenas_is_read():
    old = load_supernet(OLD)
    assert old.supernet.space.name == "tiny"
    assert old.classes == ("a", "b", "ü")
    tensor = old.supernet.get_parameter("head.classifier.weight")
    assert tensor.shape == (3, 32)
    # Written down when the sample was made.
    assert tensor.sum().item() == pytest.approx(-0.13740, abs=1e-4)
    assert old.calibration_images().shape == (2, 3, 16, 16)


# What is refused


def test_files_that_are_missing(folder: Path):
    (folder / "weights.safetensors").unlink()
    refused(folder, "no file", "weights.safetensors")
    (folder / "supernet.json").unlink()
    refused(folder, "no file", "supernet.json")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_truncated_weights(folder: Path, keep: float):
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(folder, "weights.safetensors is damaged")


def test_any_flipped_byte_of_the_weights(folder: Path):
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    for place in (0, 7, 8, 200, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        refused(folder, "weights.safetensors")
    path.write_bytes(content)
    load_supernet(folder)


def test_weights_of_another_supernet(folder: Path, tmp_path: Path):
    save_supernet(tmp_path / "other", some(seed=4), dtype=torch.float32)
    shutil.copy(tmp_path / "other" / "weights.safetensors", folder)
    refused(folder, "is not the file that", "vouches for", "hint: restore both files")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("head.classifier.bias"), "the tensor head.classifier.bias is missing"),
        (
            lambda t: t.update({"head.classifier.bias": torch.zeros(4)}),
            "the tensor head.classifier.bias must have shape (3,), found (4,)",
        ),
        (lambda t: t.update({"head.more": torch.zeros(4)}), "unknown tensor 'head.more'"),
    ],
)
def test_tensors_that_do_not_fit(folder: Path, change: Callable, words: str):
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    vouch(folder)
    refused(folder, str(path), words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": "edgenas.supernet/9"}, "must have schema 'edgenas.supernet/1'"),
        ({"more": 1}, "unknown field 'more'"),
        ({"classes": ["a", "b"]}, "classes must be 3 names"),
        ({"classes": 3}, "classes must be a list, found 3"),
        ({"weights": "none"}, "weights must be an object"),
        ({"weights": {}}, "weights: the field 'sha256' is missing"),
        ({"weights": {"sha256": "a" * 64}}, "is not the file that"),
        ({"preprocessing": {}}, "preprocessing must have schema"),
        ({"space": {"schema": "edgenas.space/1"}}, "space"),
    ],
)
def test_a_tampered_description(folder: Path, fields: dict, words: str):
    vouch(folder, **fields)
    refused(folder, words)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_float16_cannot_hold(tmp_path: Path, value: float):
    first = some()
    with torch.no_grad():
        first.supernet.get_parameter("head.classifier.bias")[1] = value
    with pytest.raises(EdgenasError, match=r"head.classifier.bias has values that torch.float16"):
        save_supernet(tmp_path / "net", first, dtype=torch.float16)
    assert not (tmp_path / "net").exists()


# Finding


def test_finding_by_path_and_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_supernet(str(folder)) == folder
    monkeypatch.setattr(module, "pretrained_folder", lambda: folder.parent)
    assert module.list_supernets() == ["net"]
    assert find_supernet("net") == folder


def test_what_cannot_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path):
    monkeypatch.setattr(module, "pretrained_folder", lambda: folder.parent)
    with pytest.raises(EdgenasError, match="unknown supernet 'nett'") as caught:
        find_supernet("nett")
    assert "did you mean net?" in caught.value.hint
    (tmp_path / "run").mkdir()
    with pytest.raises(EdgenasError, match=r"holds no supernet\.json") as caught:
        find_supernet(str(tmp_path / "run"))
    assert "--resume" in caught.value.hint


# Calibration images


def test_calibration_images_come_back(folder: Path):
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    add_calibration(folder, pixels)
    assert torch.equal(load_supernet(folder).calibration_images(), pixels)


def test_a_supernet_without_calibration_images(folder: Path):
    with pytest.raises(EdgenasError, match="carries no calibration images") as caught:
        load_supernet(folder).calibration_images()
    assert "--data" in caught.value.hint
    with pytest.raises(EdgenasError, match="carries no calibration images"):
        dataclasses.replace(some(), folder=None).calibration_images()


def test_calibration_images_of_nothing(tmp_path: Path):
    with pytest.raises(EdgenasError, match=r"holds no supernet\.json"):
        add_calibration(tmp_path, torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}, "must hold one uint8 tensor"),
        ({"pixels": torch.zeros(2, 3, 16, 16)}, "must hold one uint8 tensor"),
        ({"pixels": torch.zeros(0, 3, 16, 16, dtype=torch.uint8)}, "must hold one uint8 tensor"),
        (
            {"pixels": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)},
            r"pixels must have shape \(n, 3, 16, 16\), found \(2, 3, 8, 8\)",
        ),
    ],
)
def test_calibration_images_that_do_not_fit(folder: Path, tensors: dict, words: str):
    save_tensors(folder / "calibration.safetensors", tensors)
    with pytest.raises(EdgenasError, match=words):
        load_supernet(folder).calibration_images()


# Tensor files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int64])
def test_tensors_and_metadata_come_back(tmp_path: Path, dtype: torch.dtype):
    tensors = {
        "a": torch.arange(24).reshape(2, 3, 4).to(dtype).transpose(0, 2),
        "b": torch.tensor(7).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    save_tensors(tmp_path / "t", tensors, metadata={"step": 3, "more": [1.5, "x"]})
    found = load_tensors(tmp_path / "t")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "t", "pt") as file:
        texts = file.metadata()
    assert json.loads(texts["step"]) == 3
    assert json.loads(texts["more"]) == [1.5, "x"]


def test_any_flipped_byte_is_found(tmp_path: Path):
    path = tmp_path / "t"
    save_tensors(path, {"a": torch.arange(20.0), "b": torch.ones(3)}, metadata={"step": 3})
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        # A space that pads the header may become another character that JSON skips.
        message = ""
        try:
            found = load_tensors(path)
        except EdgenasError as error:
            found, message = None, error.message
        if found is None:
            assert "is damaged" in message
        else:
            assert torch.equal(found["a"], torch.arange(20.0)), place
            assert torch.equal(found["b"], torch.ones(3)), place


def test_tensors_without_a_digest_are_read(tmp_path: Path):
    save_file({"a": torch.ones(3)}, tmp_path / "t")
    assert torch.equal(load_tensors(tmp_path / "t")["a"], torch.ones(3))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "t"
    save_tensors(path, {"a": torch.ones(3)})
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EdgenasError, match="no space left on the disk"):
        save_tensors(path, {"a": torch.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
