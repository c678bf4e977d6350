"""Released once-for-all files against the package of their authors, which is the oracle."""

import http.server
import itertools
import random
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from serving import QuietServer, running

pytest.importorskip("ofa", reason="the oracle package ofa is not installed")

from ofa.nas.accuracy_predictor import ResNetArchEncoder, acc_predictor

from edgenas.accuracy.ofa_predictor import import_accuracy
from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.download import ADDRESSES, address_of, download
from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.latency.ofa_tables import import_latency_tables
from edgenas.latency.table_file import load_table, save_table
from edgenas.model.ofa_weights import import_supernet, released_name
from edgenas.model.saved import TrainedSupernet, load_supernet, save_supernet
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from tools.benchmarks import bench_ofa

released = pytest.mark.parametrize("name", ADDRESSES)
W12 = "ofa-mbv3-w1.2"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files named and nested as the released ones, with random content; made once each."""
    folder = tmp_path_factory.mktemp("released")

    def file_of(space: str) -> Path:
        if not (folder / space).exists():
            bench_ofa.released_file(space, folder, seed=1)
        return folder / space

    return file_of


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


# Weights


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "ofa-mbv3-w1.0"))
        for name in ADDRESSES
    ],
)
def test_networks_equal_those_of_the_oracle(name: str):
    space = load_space(name)
    small = replace(space, resolutions=(64, 96, 160))
    archs = bench_ofa.sampled(small, 7, seed=2)[2:]
    assert len({arch.resolution for arch in archs}) > 1
    found = bench_ofa.compare(small, archs, seed=3)
    assert found.archs == 5
    assert max(found.supernet64, found.network64) <= 1e-9
    assert max(found.supernet32, found.network32) <= 1e-5
    assert found.onnx <= 1e-4
    assert (found.macs, found.params) == (0, 0)


@released
def test_every_tensor_has_a_name_of_its_own(name: str):
    space = load_space(name)
    with torch.device("meta"):
        keys = list(Supernet(space).state_dict())
    assert len({released_name(space, key) for key in keys}) == len(keys)


def renamed(tensors: dict, *pairs: tuple[str, str]) -> dict:
    result = {}
    for name, tensor in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = tensor
    return result


SINGLE = ((".conv.conv.", ".conv."), (".bn.bn.", ".bn."), (".linear.linear.", ".linear."))
VARIANTS = {
    "current": lambda tensors: {
        "state_dict": renamed(tensors, (".mobile_inverted_conv.", ".conv."))
    },
    "bare": lambda tensors: tensors,
    "parallel": lambda tensors: {"state_dict": {f"module.{n}": t for n, t in tensors.items()}},
    "single": lambda tensors: {"state_dict": renamed(tensors, *SINGLE)},
    "uncounted": lambda tensors: {
        "state_dict": {n: t for n, t in tensors.items() if "num_batches" not in n}
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "name", ["ofa-mbv3-w1.0", pytest.param("ofa-resnet50", marks=pytest.mark.slow)]
)
def test_every_way_of_naming_is_read(name: str, variant: str, files: Callable, tmp_path: Path):
    space, path = load_space(name), files(name)
    wanted = import_supernet(path, space=space).state_dict()
    torch.save(VARIANTS[variant](tensors_of(path)), tmp_path / "file")
    found = import_supernet(tmp_path / "file", space=space)
    assert not found.training
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, wanted[key]) or "num_batches" in key


def test_files_of_old_pytorch_are_read(files: Callable, tmp_path: Path):
    name = "ofa-mbv3-w1.0"
    content = torch.load(files(name), weights_only=True)
    torch.save(content, tmp_path / "old", _use_new_zipfile_serialization=False)
    found = import_supernet(tmp_path / "old", space=load_space(name)).state_dict()
    wanted = import_supernet(files(name), space=load_space(name)).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_an_imported_supernet_keeps_its_statistics_on_disk(files: Callable, tmp_path: Path):
    name = "ofa-mbv3-w1.0"
    space = replace(load_space(name), resolutions=(64,))
    supernet = import_supernet(files(name), space=space)
    trained = TrainedSupernet(
        supernet=supernet,
        classes=tuple(map(str, range(1000))),
        preprocessing=Preprocessing(stored=256, mean=(0.485, 0.456, 0.406), std=(0.229,) * 3),
        training={},
    )
    save_supernet(tmp_path, trained, dtype=torch.float32)
    images = torch.randn(1, 3, 64, 64)
    again = load_supernet(tmp_path).supernet
    with torch.no_grad():
        assert torch.equal(again(images, space.smallest()), supernet(images, space.smallest()))


def without(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.pop(name)


def misshapen(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({name: torch.zeros(3, 5)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("first_conv.bn.bias"), "the tensor first_conv.bn.bias is missing"),
        (
            without("blocks.3.mobile_inverted_conv.depth_conv.conv.7to5_matrix"),
            "the tensor blocks.3.conv.depth_conv.conv.7to5_matrix is missing",
        ),
        (
            misshapen("blocks.20.mobile_inverted_conv.point_linear.conv.conv.weight"),
            "blocks.20.conv.point_linear.conv.weight must have shape 160x960x1x1, found 3x5",
        ),
        (misshapen("blocks.21.conv.weight"), "it has no place for the tensor blocks.21.conv"),
        (
            lambda tensors: tensors.update({"module.first_conv.bn.bias": torch.zeros(16)}),
            "holds the tensor first_conv.bn.bias twice",
        ),
        (
            lambda tensors: tensors.update({"first_conv.bn.bias": 3}),
            "'first_conv.bn.bias' must be a tensor, found int",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_tensor(
    change: Callable[[dict], None], message: str, files: Callable, tmp_path: Path
):
    tensors = tensors_of(files("ofa-mbv3-w1.0"))
    change(tensors)
    torch.save({"state_dict": tensors}, tmp_path / "file")
    with pytest.raises(EdgenasError) as caught:
        import_supernet(tmp_path / "file", space=load_space("ofa-mbv3-w1.0"))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (W12, "first_conv.conv.weight must have shape 24x3x3x3, found 16x3x3x3"),
        ("ofa-proxyless-w1.3", "first_conv.conv.weight must have shape 40x3x3x3"),
        ("ofa-resnet50", "the tensor input_stem.0.conv.weight is missing"),
    ],
)
def test_a_file_of_another_space_is_refused(name: str, message: str, files: Callable):
    with pytest.raises(EdgenasError) as caught:
        import_supernet(files("ofa-mbv3-w1.0"), space=load_space(name))
    assert message in caught.value.message
    assert "ofa-mbv3-w1.0" in caught.value.hint


def test_another_number_of_classes_is_refused(files: Callable):
    space = load_space("ofa-mbv3-w1.0").with_classes(10)
    message = "classifier.linear.weight must have shape 10x1280, found 1000x1280"
    with pytest.raises(EdgenasError, match=message) as caught:
        import_supernet(files("ofa-mbv3-w1.0"), space=space)
    assert "number of classes" in caught.value.hint


class Code:
    """What weights_only refuses: an object that runs something when it is read."""

    def __reduce__(self):
        return print, ("read",)


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    space, path = load_space("ofa-mbv3-w1.0"), tmp_path / "file"

    def refusal() -> str:
        with pytest.raises(EdgenasError) as caught:
            import_supernet(path, space=space)
        return caught.value.message

    assert refusal() == f"there is no file {path}"
    for content in (b"", b"no weights", b"PK\x03\x04 torn"):
        path.write_bytes(content)
        assert refusal() == f"{path} is damaged, or is no PyTorch file of plain tensors"
    torch.save({"state_dict": {"a": Code()}}, path)
    assert refusal() == f"{path} is damaged, or is no PyTorch file of plain tensors"
    assert "read" not in capsys.readouterr().out
    torch.save([1, 2], path)
    assert refusal() == f"{path} must hold a state dict, found list"
    torch.save({"state_dict": {}}, path)
    assert refusal() == f"{path} must hold a state dict, found dict"
    path.unlink()
    path.mkdir()
    assert refusal() == f"{path} is a folder; a file is needed here"


# Download

CONTENT = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server() -> Generator[SimpleNamespace]:
    """A file server that knows ranges, and whose faults can be set."""
    state = SimpleNamespace(
        content=CONTENT, etag='"one"', cut=None, length=True, status=None, ranges=[]
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            content, status = state.content, 200
            if wanted and self.headers.get("If-Range") == state.etag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                content, status = content[start:], 206
                if not content:
                    status = 416
            self.send_response(state.status or status)
            if state.length:
                self.send_header("Content-Length", str(len(content)))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(content[: state.cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(QuietServer(("127.0.0.1", 0), Handler)) as site:
        state.address = f"{site}/weights"
        yield state


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_and_its_hash_recorded(server: SimpleNamespace, tmp_path: Path):
    to = tmp_path / "weights"
    assert download(server.address, to) == to
    assert to.read_bytes() == CONTENT
    assert left(tmp_path) == ["weights", "weights.sha256"]
    digest, name = (tmp_path / "weights.sha256").read_text().split()
    assert (len(digest), name) == (64, "weights")
    # What is there is checked, not fetched again.
    download(server.address, to, sha256=digest.upper())
    assert server.ranges == [None]


def test_a_download_goes_on_where_it_broke_off(server: SimpleNamespace, tmp_path: Path):
    to = tmp_path / "weights"
    server.cut = 1_000_000
    with pytest.raises(EdgenasError) as caught:
        download(server.address, to)
    assert "broke off after 1000000 of 3000000 bytes" in caught.value.message
    assert not to.exists()
    server.cut = None
    download(server.address, to)
    assert to.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: SimpleNamespace, tmp_path: Path):
    to = tmp_path / "weights"
    server.cut = 1_000_000
    with pytest.raises(EdgenasError):
        download(server.address, to)
    server.cut, server.etag, server.content = None, '"two"', CONTENT[::-1]
    download(server.address, to)
    assert to.read_bytes() == CONTENT[::-1]


def test_a_server_without_tags_is_never_gone_on_with(server: SimpleNamespace, tmp_path: Path):
    to = tmp_path / "weights"
    server.cut, server.etag = 1_000_000, ""
    with pytest.raises(EdgenasError):
        download(server.address, to)
    server.cut = None
    download(server.address, to)
    assert to.read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_whole_part_that_was_not_renamed_is_fetched_anew(server: SimpleNamespace, tmp_path: Path):
    (tmp_path / "weights.part").write_bytes(CONTENT)
    (tmp_path / "weights.part.etag").write_text(server.etag)
    download(server.address, tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000000-", None]


def test_another_file_than_expected_is_refused(server: SimpleNamespace, tmp_path: Path):
    to = tmp_path / "weights"
    with pytest.raises(EdgenasError) as caught:
        download(server.address, to, sha256="0" * 64)
    assert f"{to} is not the expected file: SHA-256 must be 000" in caught.value.message
    to.unlink()
    download(server.address, to)
    # From then on the record counts, whoever changes the file.
    to.write_bytes(b"other weights")
    with pytest.raises(EdgenasError, match="is not the expected file"):
        download(server.address, to)


def test_a_server_without_sizes_or_without_the_file_is_refused(
    server: SimpleNamespace, tmp_path: Path
):
    to = tmp_path / "weights"
    server.length = False
    with pytest.raises(EdgenasError, match="does not say how long it is"):
        download(server.address, to)
    server.length, server.status = True, 404
    with pytest.raises(EdgenasError, match=r"could not download .*404"):
        download(server.address, to)
    with pytest.raises(EdgenasError, match=r"could not download http://127\.0\.0\.1:1/x"):
        download("http://127.0.0.1:1/x", to)
    assert not to.exists()


def test_addresses_are_those_of_released_spaces():
    assert all(load_space(name) and url.startswith("https://") for name, url in ADDRESSES.items())
    assert address_of(W12) == ADDRESSES[W12]
    with pytest.raises(EdgenasError, match="unknown released supernet 'ofa-mbv3'"):
        address_of("ofa-mbv3")


# Latency tables


class Recorder(dict):
    """A table that has every entry the oracle asks for: random, and remembered."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)

    def __missing__(self, key: str) -> dict:
        value = {"mean": self.random.uniform(0.01, 5), "std": 0.01, "count": 100}
        return self.setdefault(key, value)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in the format of the published tables, with the keys that the oracle asks for."""
    folder = tmp_path_factory.mktemp("tables")
    space = load_space(W12)
    estimator = bench_ofa.tutorial("latency_table").LatencyEstimator
    for resolution in space.resolutions:
        filling = estimator.__new__(estimator)
        filling.lut = Recorder(resolution)
        narrow = space.restrict(resolution=(resolution,))
        for arch in bench_ofa.sampled(narrow, 400, seed=0):
            spec = bench_ofa.settings(narrow, arch)
            filling.predict_network_latency_given_spec({**spec, "r": [resolution]})
        text = yaml.safe_dump(dict(filling.lut))
        (folder / f"{resolution}_lookup_table.yaml").write_text(text)
    return folder


def check_latencies(folder: Path, *, n: int) -> None:
    space = load_space(W12)
    archs = bench_ofa.sampled(space, n, seed=5)
    found = import_latency_tables(folder).compile(space)(space.encode(archs))
    wanted = bench_ofa.reference_latencies(folder, archs)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_latencies_equal_those_of_the_oracle(tables: Path):
    check_latencies(tables, n=300)


def test_published_latencies_equal_those_of_the_oracle(shared_data: Path):
    check_latencies(shared_data / "ofa" / "note10", n=1000)


def test_an_imported_table_says_what_it_is_and_comes_back(tables: Path, tmp_path: Path):
    table = import_latency_tables(tables)
    assert table.provenance == "published"
    assert str(table.target) == "note10 / tflite fp32, 1 thread, batch 1"
    assert table.covered_resolutions(load_space(W12)) == (160, 176, 192, 208, 224)
    assert {resolution for resolution, _ in table.layers_at} == {176, 192, 208, 224}
    save_table(table, tmp_path / "table.json")
    assert load_table(tmp_path / "table.json") == table
    (head,) = [layer for layer in table.layers if layer.kind == "head" and layer.size == 5]
    lut = yaml.safe_load((tables / "160_lookup_table.yaml").read_text())
    parts = [v for k, v in lut.items() if k.startswith(("Conv_", "Avg", "Logits"))]
    assert table.layers[head].seconds == pytest.approx(sum(p["mean"] for p in parts) / 1e3)
    assert table.layers[head].std == pytest.approx(2e-5)


def test_one_time_for_all_resolutions_is_the_mean_of_all_runs(tables: Path):
    table = import_latency_tables(tables)
    for layer in {layer for _, layer in table.layers_at}:
        times = [t for (_, found), t in table.layers_at.items() if found == layer]
        assert len(times) == 2
        mean = sum(t.seconds for t in times) / 2
        assert table.seconds(layer) == pytest.approx(mean)
        assert table.layers[layer].n == sum(t.n for t in times)


ENTRY = "expanded_conv-input:80x80x24-output:80x80x24"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "160_lookup_table.yaml is no YAML file"),
        ("!!python/object/apply:print [read]", "160_lookup_table.yaml is no YAML file"),
        ("[1]", "must hold one entry a layer, found list"),
        ("Pool-input:8x8x3: {}", "'Pool-input:8x8x3' is no entry of a MobileNetV3 table"),
        (
            f"{ENTRY}: {{mean: 1, std: 0, count: 5}}",
            "expand, kernel, stride, idskip, se and hs are missing",
        ),
        (
            f"{ENTRY}-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0: {{mean: 1}}",
            "-hs:0: the field 'std' is missing",
        ),
        ("{}", "the entry Conv_1 of the head is missing"),
        (f"{ENTRY}: {{mean: .nan, std: 0, count: 5}}", f"{ENTRY}: mean must be a finite number"),
        (f"{ENTRY}: {{mean: .inf, std: 0, count: 5}}", "mean must be a finite number, found inf"),
        (f"{ENTRY}: {{mean: -1, std: 0, count: 5}}", "mean must be above 0 milliseconds, found -1"),
        (f"{ENTRY}: {{mean: 0, std: 0, count: 5}}", "mean must be above 0 milliseconds, found 0"),
        (f"{ENTRY}: {{mean: 1, std: -0.1, count: 5}}", "std must be at least 0 milliseconds"),
        (f"{ENTRY}: {{mean: 1, std: .nan, count: 5}}", "std must be a finite number, found nan"),
        (f"{ENTRY}: {{mean: 1, std: 0, count: 0}}", "count must be at least 1, found 0"),
        (f"{ENTRY}: {{mean: 1, std: 0, count: true}}", "count must be a number, found True"),
        (f"{ENTRY}: {{mean: 1, std: 0, count: {'9' * 5000}}}", "has too many digits"),
        (f"{ENTRY}: 1\n{ENTRY}: 2", "a key is there twice"),
        ("a: &a [1]\nb: [*a, *a]", "it has an alias"),
        ("[" * 20, "it is nested too deeply"),
        ("? [1]\n: 2", "is no YAML file"),
        (f"{'x' * 900}: 1", "xxx...xxx"),
        ("1979-99-99: 1", "is no YAML file"),
        ("\ufeffa: 1", "byte-order mark"),
        ("# " + "x" * (5 << 20), "must have at most 2097152 bytes"),
    ],
    ids=itertools.count(),
)
def test_a_broken_table_is_refused_with_the_entry(text: str, message: str, tmp_path: Path):
    (tmp_path / "160_lookup_table.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(EdgenasError) as caught:
        import_latency_tables(tmp_path)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_folder_without_tables_is_refused(tmp_path: Path):
    with pytest.raises(EdgenasError, match="must hold files named <resolution>_lookup_table"):
        import_latency_tables(tmp_path)
    (tmp_path / "big_lookup_table.yaml").write_text("{}")
    with pytest.raises(EdgenasError, match=r"must be named <resolution>_lookup_table\.yaml"):
        import_latency_tables(tmp_path)


def test_without_a_yaml_reader_the_extra_is_named(tables: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(EdgenasError, match="YAML reader") as caught:
        import_latency_tables(tables)
    assert caught.value.hint == "pip install 'edgenas[ofa]'"


# Accuracy predictors


def random_predictor(name: str, folder: Path) -> Path:
    """A file like the published ones, of the oracle's own module with random weights."""
    torch.manual_seed(0)
    if name == "ofa-resnet50":
        encoder = ResNetArchEncoder(image_size_list=list(load_space(name).resolutions))
        module = acc_predictor.AccuracyPredictor(encoder, device="cpu")
        module.base_acc.data.fill_(0.75)
    else:
        kind = bench_ofa.tutorial("accuracy_predictor").AccuracyPredictor
        module = kind(pretrained=False, device="cpu").model
    torch.save(module.state_dict(), folder / "predictor.pth")
    return folder / "predictor.pth"


def check_accuracies(path: Path, space: Space, archs: list[Arch]) -> None:
    found = import_accuracy(path, space=space).predict(space.encode(archs))
    wanted = np.array(bench_ofa.reference_accuracies(path, space, archs))
    assert np.ptp(wanted) > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [W12, "ofa-resnet50"])
def test_accuracies_equal_those_of_the_oracle(name: str, tmp_path: Path):
    space = load_space(name)
    path = random_predictor(name, tmp_path)
    check_accuracies(path, space, bench_ofa.sampled(space, 300, seed=6))


@pytest.mark.parametrize(
    ("name", "file"),
    [(W12, "acc_predictor.pth"), ("ofa-resnet50", "resnet50_acc_predictor.pth")],
)
def test_published_accuracies_equal_those_of_the_oracle(name: str, file: str, shared_data: Path):
    space = load_space(name)
    check_accuracies(shared_data / "ofa" / file, space, bench_ofa.sampled(space, 1000, seed=7))


def test_a_predictor_serves_narrower_spaces_and_comes_back(tmp_path: Path):
    space = load_space(W12)
    path = random_predictor(W12, tmp_path)
    narrow = space.restrict(resolution=(192,), kernel=(3, 5), depth=(2, 3))
    archs = bench_ofa.sampled(narrow, 50, seed=8)
    whole = import_accuracy(path, space=space)
    found = import_accuracy(path, space=narrow).predict(narrow.encode(archs))
    np.testing.assert_allclose(found, whole.predict(space.encode(archs)), rtol=1e-6)
    whole.save(tmp_path / "accuracy.safetensors")
    again = load_accuracy(tmp_path / "accuracy.safetensors")
    assert (again.predict(space.encode(archs)) == whole.predict(space.encode(archs))).all()
    assert "optimistic" in again.source


def test_a_predictor_of_another_space_is_refused(tmp_path: Path):
    path = random_predictor(W12, tmp_path)
    with pytest.raises(EdgenasError, match="it must have 82 inputs, found 128"):
        import_accuracy(path, space=load_space("ofa-resnet50"))
    with pytest.raises(EdgenasError, match=r"must be space ofa-mbv3-w1\.2 or a narrower one"):
        import_accuracy(path, space=load_space("ofa-mbv3-w1.0"))


def test_what_is_no_predictor_is_refused(files: Callable):
    with pytest.raises(EdgenasError, match="is no released accuracy predictor"):
        import_accuracy(files("ofa-mbv3-w1.0"), space=load_space(W12))
