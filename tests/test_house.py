"""The rules of the house that no linter knows: see docs/design.md, sections 3 and 4."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "edgenas"

# The order of the wings, docs/design.md, section 3. Inside a wing imports are free.
ORDER = """
    basics space clock onnx_graph runtime latency profiling
    images model accuracy training strategies
    bundle pages delivery cli __main__
""".split()
# Wings that do without torch, and so do `import edgenas` and `edgenas --help`.
WITHOUT_TORCH = "basics space clock onnx_graph latency".split()

# What is imported under another name than it is installed.
INSTALLED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
INSTALLED_AS |= {"tensorrt_rtx": "tensorrt-rtx-cu13", "google": "protobuf"}
INSTALLED_AS |= {"pillow_heif": "pillow-heif"}

# One file goes to a board and runs there alone: it may be as long as that takes.
LONGEST = 465
LONGER = {"board.py": 1500}

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def each(paths: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def entry_of(path: Path) -> str:
    """The entry of ORDER that a file of the package belongs to; empty for edgenas/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every dotted name that is imported anywhere in a tree, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if base == "edgenas":
                yield from ((f"edgenas.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield base, node.lineno


def order_errors(tree: ast.AST, *, entry: str) -> list[str]:
    """What the imports of a module of the package do against ORDER."""
    errors = []
    for name, line in imported(tree):
        parts = name.split(".")
        if parts[0] == "":
            errors.append(f"line {line}: relative import {name}")
        if parts[0] != "edgenas" or parts[1:2] == [entry]:
            continue
        if len(parts) == 1 or parts[1] not in ORDER:
            errors.append(f"line {line}: {name} is no module of the order")
        elif entry and ORDER.index(parts[1]) > ORDER.index(entry):
            errors.append(f"line {line}: {entry} imports {name}, which stands after it")
    return errors


def forbidden(tree: ast.AST) -> list[str]:
    """The constructs of a module that could run what a file or a user says."""
    errors = []
    for name, line in imported(tree):
        if name.split(".")[0] in PICKLES:
            errors.append(f"line {line}: import of {name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            name in ("eval", "exec", "os.system", "os.popen")
            or (name.startswith("yaml.") and name.endswith("load") and name != "yaml.safe_load")
            or (name == "torch.load" and options.get("weights_only") != "True")
            or options.get("shell", "False") != "False"
            or options.get("allow_pickle", "False") != "False"
        ):
            errors.append(f"line {node.lineno}: {ast.unparse(node)}")
    return errors


def run_python(code: str, *, cwd: Path = ROOT) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# The order of imports


@pytest.mark.parametrize("path", each(modules()))
def test_a_module_imports_only_what_stands_before_it(path: Path):
    entry = entry_of(path)
    assert not entry or entry in ORDER, f"give {entry} its place in ORDER"
    assert not order_errors(tree_of(path), entry=entry)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "from edgenas.latency.table import merge",
            "line 1: space imports edgenas.latency.table, which stands after",
        ),
        (
            "def f():\n    from edgenas import cli",
            "line 2: space imports edgenas.cli, which stands",
        ),
        (
            "if TYPE_CHECKING:\n    import edgenas.model.network",
            "line 2: space imports edgenas.model.network",
        ),
        ("from edgenas.utils import x", "line 1: edgenas.utils is no module of the order"),
        ("import edgenas", "line 1: edgenas is no module of the order"),
        ("from .arch import Arch", "line 1: relative import .arch"),
    ],
)
def test_an_import_against_the_order_is_found(code: str, error: str):
    (found,) = order_errors(ast.parse(code), entry="space")
    assert found.startswith(error)


def test_imports_along_the_order_and_inside_a_folder_are_fine():
    code = (
        "from edgenas.basics.errors import EdgenasError\n"
        "from edgenas.strategies.nsga2 import f\n"
        "import os"
    )
    assert not order_errors(ast.parse(code), entry="strategies")


def test_the_order_is_the_one_of_the_design_page():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    listed = text[text.index("basics < space") :].split("\n\n")[0]
    words = [word.strip() for word in listed.rstrip(".").split("<")]
    assert [*words, "__main__"] == ORDER


# What an import costs


def torch_free() -> list[Path]:
    """The modules that do without torch: whole wings, searches, and predictors of accuracy."""
    paths = [path for path in modules() if entry_of(path) in ("", *WITHOUT_TORCH)]
    paths += [p for p in (PACKAGE / "strategies").glob("*.py") if p.name != "proxies.py"]
    return paths + [
        PACKAGE / "accuracy" / f"{name}.py" for name in ("predictor", "mlp", "gaussian")
    ]


def test_modules_that_do_without_torch_import_none():
    dotted = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in torch_free()]
    names = [name.removesuffix(".__init__") for name in dotted]
    assert "edgenas.basics.errors" in names
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_modules_that_do_without_torch_import_none_later_either():
    for path in torch_free():
        names = [name.split(".")[0] for name, _ in imported(tree_of(path))]
        assert not {"torch", "torchvision", "torchaudio"} & set(names), path


def test_help_imports_no_torch():
    pytest.importorskip("edgenas.cli", reason="no command line yet")
    out = run_python(
        "import sys\n"
        "sys.argv = ['edgenas', '--help']\n"
        "from edgenas.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "print('torch' in sys.modules)\n"
    )
    assert "specialize" in out
    assert out.splitlines()[-1] == "False"


def test_board_is_one_file_for_old_pythons_with_the_standard_library_alone():
    path = PACKAGE / "clock" / "board.py"
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    # What runs on a board when it is there, asked for inside the function that needs it.
    lazy = {"numpy", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "torch"}
    outside = {name.split(".")[0] for name, _ in imported(tree)} - sys.stdlib_module_names
    assert outside <= lazy, f"board.py imports {outside - lazy}"
    at_import = {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name, _ in imported(node)
    }
    assert at_import <= sys.stdlib_module_names


# What the package depends on


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", r.strip(), maxsplit=1)[0].lower() for r in requirements}


@pytest.mark.parametrize("path", each(modules()))
def test_what_is_imported_is_a_declared_dependency(path: Path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = names_of(project["dependencies"])
    extras = {
        name
        for extra, requirements in project["optional-dependencies"].items()
        if extra != "test"
        for name in names_of(requirements)
    }
    tree = tree_of(path)
    inside = (ast.FunctionDef, ast.ClassDef)
    at_import = {n for node in tree.body if not isinstance(node, inside) for n, _ in imported(node)}
    for name, line in imported(tree):
        root = name.split(".")[0]
        if root == "edgenas" or root in sys.stdlib_module_names:
            continue
        installed = INSTALLED_AS.get(root, root)
        assert installed in core | extras, f"line {line}: {root} is no declared dependency"
        if name in at_import and entry_of(path) != "runtimes":
            assert installed in core, f"line {line}: {root} comes with an extra: import it inside"


# What no module does


@pytest.mark.parametrize("path", each(modules()))
def test_no_module_runs_what_a_file_says(path: Path):
    assert not forbidden(tree_of(path))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "eval('1')",
        "exec('x = 1')",
        "import os\nos.system('ls')",
        "yaml.load(stream)",
        "yaml.unsafe_load(stream)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run('ls', shell=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_what_no_module_does_is_found(code: str):
    assert len(forbidden(ast.parse(code))) == 1


def test_harmless_code_is_not_found():
    code = "model.eval()\nyaml.safe_load(s)\ntorch.load(p, weights_only=True)\nre.compile('x')"
    assert not forbidden(ast.parse(code))


@pytest.mark.parametrize("path", each(modules()))
def test_public_functions_and_classes_say_what_they_do(path: Path):
    tree = tree_of(path)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    silent = [node.name for node in public if not ast.get_docstring(node)]
    assert not silent
    assert path.name == "__init__.py" or ast.get_docstring(tree), "no words on the module"


@pytest.mark.parametrize("path", each(modules()))
def test_files_stay_short(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGER.get(path.name, LONGEST), f"{lines} lines: split it by noun"


def tracked() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_or_a_host_of_one_machine():
    paths = [r"(?<![\w.~$}>)-])/(?:work|root|tmp|home/\w+|Users/\w+)/\w"]
    hosts = [r"pypi\.org", r"pythonhosted\.org", r"npmjs\.(?:org|com)", r"debian\.org"]
    pattern = re.compile("|".join(paths + hosts))
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


# What is shipped


def test_the_wheel_carries_the_package_and_its_data(tmp_path: Path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run(
        [*command, str(tmp_path), str(ROOT)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked_files = [path.relative_to(ROOT) for path in tracked()]
    data = [p for p in tracked_files if p.parts[0] in ("device_profiles", "latency_tables")]
    package = [p for p in tracked_files if p.parts[0] == "edgenas"]
    assert data
    assert package
    assert {f"edgenas/shipped/{p.as_posix()}" for p in data} <= held
    assert {p.as_posix() for p in package} <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not any(name.startswith(("tests/", "tools/", "docs/")) for name in held)
    metadata = next(name for name in held if name.endswith("entry_points.txt"))
    entry_points = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "edgenas = edgenas.cli:main" in entry_points


# Names of file formats are no names of modules: moving a module must not rename a format.


def test_names_of_formats_name_no_module():
    named = re.compile(r"edgenas\.[\w.-]+/\d+")
    for path in modules():
        for schema in named.findall(path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"edgenas\.[a-z0-9-]+/\d+", schema), f"{path.name}: {schema}"
