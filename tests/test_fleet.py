"""Many devices from one file: one bundle each, one index, and one failure loses no other."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from pages import Tree

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.verify import verify_bundle
from edgenas.bundle.write import load_bundle
from edgenas.delivery import shared
from edgenas.delivery.fleet import read_fleet
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.pages.fleet import fleet_page

HEAD = 'schema = "edgenas.fleet/1"\n'


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fleet(text: str, supernet: Path) -> Path:
    path = Path("devices.toml")
    path.write_text(f"{HEAD}supernet = {json.dumps(str(supernet))}\n{text}")
    return path


TWO = """
[[devices]]
device = "jetson"
latency = ["20ms", "10ms"]
[[devices]]
device = "rpi4"
params = "4M"
constraint = ["latency@jetson<=20ms"]
"""


def test_one_bundle_for_each_device_and_budget(edgenas, tiny: Path):
    done = edgenas("specialize", "--devices", fleet(TWO, tiny))
    assert done.code == 0, done.log
    folder = Path("devices-fleet")
    index = json.loads((folder / "fleet.json").read_text())
    assert index["schema"] == "edgenas.fleet-index/1"
    names = [entry["name"] for entry in index["entries"]]
    assert names == [
        "jetson-orin-nano-20ms",
        "jetson-orin-nano-10ms",
        "rpi4-params4M-latency@jetson20ms",
    ]
    assert {path.name for path in folder.iterdir()} == {"fleet.json", "index.html", *names}
    for entry in index["entries"]:
        bundle = folder / entry["folder"]
        assert all(check.passed for check in verify_bundle(bundle))
        arch, record = load_bundle(bundle)
        assert (entry["arch_id"], entry["report"]) == (
            arch.id,
            json.loads(json.dumps(record.to_json())),
        )
        assert entry["name"] in done.out
    links = [
        a["href"] for a in Tree((folder / "index.html").read_text(encoding="utf-8")).named("a")
    ]
    assert all((folder / unquote(link)).is_file() for link in links)
    assert len(links) == 3
    assert "3 of 3 bundles" in done.out


def test_a_bundle_of_a_fleet_is_the_one_made_alone(edgenas, tiny: Path):
    assert edgenas("specialize", "--devices", fleet(TWO, tiny), "--out", "all").code == 0
    request = SpecializeRequest(device="jetson", latency="10ms", supernet=str(tiny))
    specialize(request, out=Path("alone"))
    for path in Path("alone").iterdir():
        assert path.read_bytes() == (Path("all/jetson-orin-nano-10ms") / path.name).read_bytes()


def test_what_is_shared_is_read_once(edgenas, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    for name in ("load_supernet", "load_predictor", "read_image_sets", "find_or_profile_latency"):
        real = getattr(shared, name)

        def counting(*args, real=real, name=name, **values):
            calls.append(name)
            return real(*args, **values)

        monkeypatch.setattr(shared, name, counting)
    assert edgenas("specialize", "--devices", fleet(TWO, tiny)).code == 0
    assert sorted(calls) == [
        "find_or_profile_latency",
        "find_or_profile_latency",
        "load_predictor",
        "load_supernet",
        "read_image_sets",
    ]


def test_one_that_fails_loses_no_other_and_the_exit_code_says_it(edgenas, tiny: Path):
    text = TWO.replace('"20ms", "10ms"', '"1ns", "10ms"')
    done = edgenas("specialize", "--devices", fleet(text, tiny), "--out", "all")
    assert done.code == 1
    assert "jetson-orin-nano-1ns failed: no network of space tiny keeps latency<=1ns" in done.out
    assert "2 of 3 bundles" in done.out
    told = json.loads(
        edgenas("specialize", "--devices", "devices.toml", "--out", "all", "--json").out
    )
    assert [entry["passed"] for entry in told["entries"]] == [False, True, True]
    assert [entry.get("existed") for entry in told["entries"]] == [None, True, True]
    assert told["entries"][0]["hint"].startswith("allow at least latency<=")
    page = Tree(Path("all/index.html").read_text(encoding="utf-8"))
    assert len(page.named("a")) == 2
    assert any("no network of space tiny keeps" in text for text in page.texts)


def test_bundles_that_are_there_are_kept(edgenas, tiny: Path):
    path = fleet(TWO, tiny)
    assert edgenas("specialize", "--devices", path, "--out", "all").code == 0
    before = {p: p.stat().st_mtime_ns for p in Path("all").glob("*/manifest.json")}
    assert edgenas("specialize", "--devices", path, "--out", "all").code == 0
    assert {p: p.stat().st_mtime_ns for p in Path("all").glob("*/manifest.json")} == before
    path.write_text(path.read_text().replace("[[devices]]", "seed = 1\n[[devices]]", 1))
    done = edgenas("specialize", "--devices", path, "--out", "all")
    assert done.code == 1
    assert "answers another request (hint: replace it with --force" in done.out
    assert edgenas("specialize", "--devices", path, "--out", "all", "--force").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the field 'devices' is missing"),
        ("devices = 3", "devices must be a list of tables, found 3"),
        ("[[devices]]", r"devices\[1\]: the entry: the field 'device' is missing"),
        ('[[devices]]\ndevice = "jetson"\nlatncy = "2ms"', r"devices\[1\] \(jetson\): .*'latncy'"),
        ('[[devices]]\ndevice = "jetsom"', r"devices\[1\] \(jetsom\): unknown device 'jetsom'"),
        ("[[devices]]\ndevice = 3", r"devices\[1\]: device must be a text, found 3"),
        (
            '[[devices]]\ndevice = "rpi4"\n[[devices]]\ndevice = "jetson"\nlatency = 20',
            r"devices\[2\] \(jetson\): latency must be a text like '20ms' or a list of them",
        ),
        (
            '[[devices]]\ndevice = "jetson"\nlatency = ["20ms", "20"]',
            r"devices\[1\] \(jetson\): latency must be in .*, found no unit in '20'",
        ),
        (
            '[[devices]]\ndevice = "jetson"\nparams = ["1M", "2M"]',
            r"devices\[1\] \(jetson\): params must be a text",
        ),
        (
            '[[devices]]\ndevice = "jetson"\nthreads = "2"',
            r"devices\[1\] \(jetson\): threads must be an integer, found '2'",
        ),
        (
            '[[devices]]\ndevice = "jetson"\nconfidence = 2',
            r"devices\[1\] \(jetson\): confidence must be at most 0.999, found 2",
        ),
        (
            '[[devices]]\ndevice = "jetson"\nsupernet = "nothing"',
            r"devices\[1\] \(jetson\): unknown supernet 'nothing'",
        ),
        (
            '[[devices]]\ndevice = "jetson"\n' * 1001,
            r"devices\[1001\] \(jetson\): a fleet has at most 1000 bundles",
        ),
        (
            '[[devices]]\ndevice = "jetson"\n[[devices]]\ndevice = "jetson-orin-nano"',
            r"devices\[2\] \(jetson-orin-nano\) asks for .*, as does .*devices\[1\] \(jetson\)",
        ),
        ("seed = 1.5\n[[devices]]", "seed must be an integer, found 1.5"),
        ("[[devices", "is damaged or not what it should be"),
    ],
)
def test_errors_in_the_file_name_the_entry(edgenas, text: str, message: str):
    Path("devices.toml").write_text(HEAD + text)
    with pytest.raises(EdgenasError, match=message) as caught:
        read_fleet(Path("devices.toml"))
    assert "\n" not in caught.value.message
    done = edgenas("specialize", "--devices", "devices.toml")
    assert done.code == 2
    assert done.log.startswith("error: ")
    assert len(done.log.splitlines()) == 2
    assert [path.name for path in Path().iterdir()] == ["devices.toml"]


def test_two_ways_to_use_a_device_have_names_of_their_own():
    text = '[[devices]]\ndevice = "rpi4"\n[[devices]]\ndevice = "rpi4"\nthreads = 1'
    Path("devices.toml").write_text(HEAD + text)
    names = [entry.name for entry in read_fleet(Path("devices.toml"))]
    assert len(set(names)) == 2
    assert all(name.startswith("rpi4-free-") for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", "x.toml", "--latency", "2ms"), "--latency cannot be given beside --devices"),
        (("--devices", "x.toml", "--device", "rpi4"), "--device cannot be given beside --devices"),
        (("--devices", "x.toml"), "there is no file x.toml"),
        ((), "missing option '--device', or '--devices' with a file"),
    ],
)
def test_a_file_of_devices_stands_for_the_options(edgenas, words: tuple, message: str):
    done = edgenas("specialize", *words)
    assert done.code == 2
    assert done.log.startswith(f"error: {message}")


def test_no_name_can_break_an_index():
    bad = '"><script>alert(1)</script>'
    entry = {"name": bad, "device": bad, "constraints": [bad], "passed": False}
    page = Tree(fleet_page({"entries": [{**entry, "error": bad, "hint": bad}]}))
    assert not page.named("script")
    assert any(bad in text for text in page.texts)
