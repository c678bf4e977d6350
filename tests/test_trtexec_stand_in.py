"""The stand-in for ``trtexec`` behaves as the sources of the real one say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import trtexec_law
import trtexec_program
from trtexec_options import OptionError, parse

from edgenas.onnx_graph.build import layer_graph, network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.space import presets as spaces
from edgenas.space.cost import total
from edgenas.space.plan import layers

VERSIONS = ("8.0.1", "8.2.1", "8.5.2", "8.6.2", "10.3.0", "10.16.2", "11.1.0")
TINY = spaces.tiny()
USUAL = ("--warmUp=500", "--duration=0", "--iterations=60", "--avgRuns=60")


def relu_graph() -> bytes:
    """A block without hard swishes, which old versions lack."""
    blocks = (each for each in layers(TINY) if each.kind == "mbconv")
    return layer_graph(next(each for each in blocks if each.activation == "relu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    path.write_bytes(relu_graph())
    return path


@pytest.fixture
def start(tmp_path, capsys):
    """Start the stand-in in this process: exit code, stdout, stderr and the exported times."""

    def run(*arguments: str, **settings):
        times = tmp_path / "t.json"
        times.unlink(missing_ok=True)
        given = [a.replace("TIMES", str(times)) for a in arguments]
        code = trtexec_program.Program({"seed": 1, **settings}, given).run()
        out, err = capsys.readouterr()
        return code, out, err, times.read_text() if times.exists() else None

    return run


@pytest.mark.parametrize(
    ("option", "versions"),
    [
        ("--fp16", VERSIONS[:-1]),
        ("--int8", VERSIONS[:-1]),
        ("--stronglyTyped", VERSIONS[4:]),
        ("--workspace=64", VERSIONS[:4]),
        ("--memPoolSize=workspace:64", VERSIONS[2:]),
        ("--maxAuxStreams=0", VERSIONS[3:]),
        ("--exportLayerInfo=x", VERSIONS[1:]),
        ("--nvtxMode=verbose", VERSIONS[:1]),
        ("--buildOnly", VERSIONS[:4]),
        ("--skipInference", VERSIONS[3:]),
        ("--noCudaGraph", VERSIONS[6:]),
        ("--useCudaGraph", VERSIONS),
        ("--cpuOnly", VERSIONS[5:]),
        ("--batch=1", VERSIONS[:4]),
        ("--version", ()),
    ],
)
def test_options_are_known_from_and_up_to_their_versions(option, versions):
    for version in VERSIONS:
        major, minor, _ = map(int, version.split("."))
        if version in versions:
            parse([option], version=(major, minor))
        else:
            with pytest.raises(OptionError, match="Unknown option: --"):
                parse([option], version=(major, minor))


def test_a_value_behind_a_blank_and_an_option_given_twice_are_unknown():
    for words in (["--onnx", "m"], ["--iterations=1", "--iterations=1"], ["m.onnx"]):
        with pytest.raises(OptionError, match="Unknown option"):
            parse(words, version=(10, 3))


def test_numbers_are_read_up_to_the_first_letter_and_old_durations_are_whole():
    assert float(parse(["--iterations=10x"], version=(8, 2))["iterations"]) == 10
    assert float(parse(["--duration=0.5"], version=(8, 2))["duration"]) == 0
    assert float(parse(["--duration=0.5"], version=(8, 5))["duration"]) == 0.5
    with pytest.raises(OptionError, match="stoi"):
        parse(["--iterations=x"], version=(8, 2))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_banner_tells_the_version_and_help_passes_without_saying_so(start, version):
    code, out, _, _ = start("--help", version=version)
    numbers = {"8.2.1": "v8201", "10.3.0": "v100300", "10.16.2": "v101602] [b10"}
    assert code == 0
    assert out.startswith("&&&& RUNNING TensorRT.trtexec [TensorRT v")
    assert numbers.get(version, "[TensorRT") in out.splitlines()[0]
    assert "PASSED" not in out


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_option_ends_with_one_and_the_help(start, version):
    code, out, err, _ = start("--version", version=version)
    assert code == 1
    assert "[E] Unknown option: --version" in err
    assert "=== Model Options ===" in out
    assert ("&&&& FAILED" in out) == (version != "11.1.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_times_hold_warm_up_runs_up_to_8_4_and_their_keys(start, model, version):
    code, out, _, text = start(
        f"--onnx={model}", "--exportTimes=TIMES", *USUAL, version=version, noise=0.01
    )
    assert code == 0
    assert out.splitlines()[-1].startswith("&&&& PASSED")
    rows = json.loads(text)
    old = version in VERSIONS[:2]
    assert (rows[0]["startComputeMs"] < 500) == old
    assert ("endToEndMs" in rows[0]) == (version in VERSIONS[:2])
    assert sum(row["startComputeMs"] >= 500 for row in rows) == 60
    # An fp32 graph without flags runs in fp32 everywhere.
    truth = trtexec_law.truth(model.read_bytes(), size=4)
    median = np.median([row["computeMs"] for row in rows if row["startComputeMs"] >= 500])
    assert median * 1e-3 == pytest.approx(truth, rel=0.1)  # spread 3%, at most 2.5 of it


def test_a_profile_without_a_run_of_its_own_exports_no_times(start, model):
    words = (f"--onnx={model}", "--exportTimes=TIMES", "--dumpProfile", *USUAL)
    for version in VERSIONS:
        hidden = "8.5" <= version < "9" or version.startswith("10")
        assert (start(*words, version=version)[3] is None) == hidden
    assert start(*words, "--separateProfileRun", version="10.3.0")[3] is not None


def test_precisions_come_from_flags_or_from_the_types_of_the_graph(start, tmp_path):
    space = spaces.mbv3_cifar()
    plain = network_graph(space, space.largest())
    paths = {}
    for form in ("fp32", "fp16"):
        paths[form] = tmp_path / f"{form}.onnx"
        paths[form].write_bytes(convert_to_form(plain, form=form))

    def median(form: str, *flags: str, version: str) -> float:
        found = start(
            f"--onnx={paths[form]}", "--exportTimes=TIMES", *USUAL, *flags, version=version
        )
        assert found[0] == 0, found[2]
        return float(np.median([row["computeMs"] for row in json.loads(found[3])]))

    half, full = (1e3 * trtexec_law.truth(plain, size=size) for size in (2, 4))
    assert median("fp32", "--fp16", version="8.6.2") == pytest.approx(half, rel=0.1)
    assert median("fp16", "--stronglyTyped", version="10.3.0") == pytest.approx(half, rel=0.1)
    assert median("fp32", "--stronglyTyped", version="10.3.0") == pytest.approx(full, rel=0.1)
    assert median("fp16", version="11.1.0") == pytest.approx(half, rel=0.1)
    assert median("fp32", version="11.1.0") == pytest.approx(full, rel=0.1)


def test_old_versions_lack_operators(start, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network_graph(TINY, TINY.largest()))
    for version in VERSIONS:
        code, _, err, _ = start(f"--onnx={path}", *USUAL, version=version)
        lacking = version in VERSIONS[:2]
        assert code == int(lacking)
        assert ("No importer registered for op: HardSwish" in err) == lacking


def test_the_timing_cache_saves_what_was_built_and_leaves_a_lock_from_8_5_on(
    start, model, tmp_path
):
    cache = tmp_path / "cache"
    words = (f"--onnx={model}", f"--timingCacheFile={cache}", *USUAL)

    def built(out: str) -> float:
        return next(float(w.split()[-2]) for w in out.splitlines() if "Engine built in" in w)

    assert built(start(*words, version="8.2.1")[1]) == 30
    assert built(start(*words, version="8.2.1")[1]) == 4
    assert not Path(f"{cache}.lock").exists()
    code, out, err, _ = start(*words, version="10.3.0")
    assert (code, built(out)) == (0, 30)
    assert "of another version" in err
    assert Path(f"{cache}.lock").exists()


def test_rebuilt_engines_differ_by_the_spread(start, tmp_path):
    model, medians = tmp_path / "m.onnx", []
    model.write_bytes(network_graph(TINY, TINY.smallest()))
    for seed in range(40):
        words = (f"--onnx={model}", "--exportTimes=TIMES", "--warmUp=0", "--duration=0")
        found = start(*words, "--iterations=30", seed=seed, spread=0.03)[3]
        medians.append(np.median([row["computeMs"] for row in json.loads(found)][10:]))
    assert 0.015 < np.std(medians) / np.mean(medians) < 0.045  # 40 draws of 3%


@pytest.mark.parametrize(
    ("fault", "version", "code", "says"),
    [
        ("terminate", "8.6.2", 1, "Uncaught exception detected"),
        ("loader", "10.3.0", 127, "error while loading shared libraries"),
        ("graph lost", "8.2.1", 0, "--useCudaGraph flag has been ignored"),
        ("graph lost", "11.1.0", 0, "CUDA graph capture failed"),
        ("tactics", "8.2.1", 0, "Skipping tactic"),
        ("unstable", "8.5.2", 0, "GPU compute time is unstable"),
        ("enqueue bound", "10.3.0", 0, "may be bound by Enqueue Time"),
    ],
)
def test_faults_say_what_the_real_one_says(start, model, fault, version, code, says):
    graph = () if version == "11.1.0" else ("--useCudaGraph",)
    words = (f"--onnx={model}", "--exportTimes=TIMES", *USUAL, *graph)
    found = start(*words, version=version, fault=fault)
    assert found[0] == code
    assert says in found[2]


def test_export_files_that_cannot_be_written_are_not_told(start, model):
    words = (f"--onnx={model}", "--exportTimes=/nowhere/t.json", *USUAL)
    assert start(*words)[0] == 0
    assert start(f"--onnx={model}", "--exportTimes=TIMES", *USUAL, fault="no times")[3] is None


def test_every_fault_is_handled_somewhere():
    text = Path(trtexec_program.__file__).read_text()
    for fault in trtexec_program.FAULTS:
        assert text.count(f'"{fault}"') > 1, fault


def test_it_computes_what_the_model_computes(start, tmp_path):
    path, image, out = tmp_path / "m.onnx", tmp_path / "i", tmp_path / "o.json"
    path.write_bytes(network_graph(TINY, TINY.smallest()))
    size = TINY.smallest().resolution
    x = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    x.tofile(image)
    words = (f"--onnx={path}", f"--loadInputs=image:{image}", f"--exportOutput={out}", *USUAL)
    assert start(*words, python=sys.executable)[0] == 0
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    expected = np.asarray(session.run(None, {"image": x})[0])
    (told,) = json.loads(out.read_text())
    assert told["dimensions"] == "x".join(map(str, expected.shape))
    np.testing.assert_allclose(told["values"], expected.ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("law", sorted(trtexec_law.LAWS))
def test_laws_know_the_work_of_a_network_and_differ(law):
    for space in (TINY, spaces.mbv3_cifar()):
        small, large = (network_graph(space, a) for a in (space.smallest(), space.largest()))
        kernels = trtexec_law.kernels_of(trtexec_law.read_graph(large))
        assert sum(kernel.macs for kernel in kernels) == total(space, space.largest()).macs
        assert trtexec_law.truth(small, law=law) < trtexec_law.truth(large, law=law)


def test_a_law_can_be_a_file(tmp_path):
    path = tmp_path / "law.py"
    path.write_text("def seconds(kernels, *, size): return 1e-6 * len(kernels) * size\n")
    graph = network_graph(TINY, TINY.smallest())
    count = len(trtexec_law.kernels_of(trtexec_law.read_graph(graph)))
    assert trtexec_law.truth(graph, law=str(path)) == pytest.approx(2e-6 * count)
