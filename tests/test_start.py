"""A light start: which modules each verb loads."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from edgenas.cli import VERBS

HEAVY = ("torch", "scipy", "onnx", "onnxruntime", "matplotlib", "optuna", "sympy", "pandas", "PIL")
# What torch loads only where somebody compiles a network, which nobody does here.
COMPILER = ("torch._dynamo", "sympy", "torch.fx.experimental.symbolic_shapes")


def modules_of(*words: str, cwd: Path = ROOT) -> set[str]:
    code = (
        "import sys\n"
        f"sys.argv = ['edgenas', *{list(map(str, words))!r}]\n"
        "from edgenas.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "sys.stderr.write('\\n'.join(['MODULES', *sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split("MODULES\n")[1].split("\n"))


def verbs_in(modules: set[str]) -> set[str]:
    from edgenas.cli import VERBS

    files = {f"edgenas.cli.{name.replace('-', '_')}" for name in VERBS}
    return {name.removeprefix("edgenas.cli.") for name in modules & files}


@pytest.mark.parametrize(
    ("words", "verbs"),
    [
        (["--version"], set()),
        (["list", "devices"], {"list"}),
        (["list", "spaces"], {"list"}),
        (["predict", "--help"], {"predict"}),
        (["specialize", "--help"], {"specialize"}),
    ],
)
def test_a_verb_alone_is_imported_and_nothing_heavy(words: list[str], verbs: set[str]):
    modules = modules_of(*words)
    assert verbs_in(modules) == verbs
    assert not modules & set(HEAVY)


def test_help_imports_every_verb_and_nothing_heavy():
    modules = modules_of("--help")
    assert len(verbs_in(modules)) == len(VERBS)
    assert not modules & set(HEAVY)


def test_predict_does_without_torch(tmp_path: Path):
    from edgenas.space.arch import save_arch
    from edgenas.space.presets import PRESETS

    save_arch(PRESETS["mbv3-cifar"]().largest(), tmp_path / "arch.json")
    words = ("predict", "--device", "jetson", "--arch", str(tmp_path / "arch.json"))
    modules = modules_of(*words, "--space", "mbv3-cifar")
    assert verbs_in(modules) == {"predict"}
    assert not modules & {"torch", "onnxruntime", "matplotlib", "optuna", "sympy", "pandas", "PIL"}
    assert not [name for name in modules if name.startswith(("edgenas.pages", "edgenas.training"))]


@pytest.mark.slow
def test_specialize_loads_no_charts_no_trainings_and_no_compiler(tmp_path: Path):
    words = ("specialize", "--device", "jetson", "--latency", "3ms", "--out", str(tmp_path / "b"))
    modules = modules_of(*words)
    assert verbs_in(modules) == {"specialize"}
    assert not modules & {"matplotlib", "optuna", "pandas"}
    # torch 2.9 loads sympy where it checks the length of a tensor.
    if torch.__version__ >= (2, 14):
        assert not modules & set(COMPILER)
    absent = ("edgenas.pages.training", "edgenas.pages.fronts", "edgenas.training.loop")
    assert not modules & set(absent)


def test_one_thread_of_blas_is_no_matter_of_other_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    code = (
        "import os, sys\n"
        "from edgenas import cli\n"
        "cli._load_numpy()\n"
        "print('numpy' in sys.modules, 'OPENBLAS_NUM_THREADS' in os.environ)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False"]
