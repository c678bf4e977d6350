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
from measures import (
    MOST_CODE,
    MOST_LINES,
    MOST_PARAMETERS,
    assertions_of_a_value,
    code_lines,
    functions,
    mutable_fields,
    parameter_count,
    repeated_classes,
    word_count,
)

from edgenas.cli import VERBS
from edgenas.clock.pack import collect_sources
from edgenas.runtime import registry as runtimes

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


@pytest.mark.parametrize("name", [n for n in runtimes.timed_names() if runtimes.get(n).part])
def test_what_goes_to_a_board_is_for_old_pythons_with_the_standard_library_alone(name: str):
    # What runs on a board when it is there, asked for inside the function that needs it.
    lazy = {"numpy", "onnxruntime", "openvino", "torch", "ncnn", "ai_edge_litert"}
    for module, text in collect_sources(runtimes.get(name).part).items():
        tree = ast.parse(text, feature_version=(3, 8))
        used = {dotted.split(".")[0] for dotted, _ in imported(tree)} - {"edgenas"}
        assert used - sys.stdlib_module_names <= lazy, module
        at_import = {
            dotted.split(".")[0]
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for dotted, _ in imported(node)
        }
        assert at_import <= sys.stdlib_module_names | {"edgenas"}, module


def test_every_file_of_the_clock_goes_to_boards():
    parts = [part for name in runtimes.timed_names() if (part := runtimes.get(name).part)]
    sent = {module for part in parts for module in collect_sources(part)}
    files = {path.stem for path in (PACKAGE / "clock" / "board").glob("*.py")} - {"__init__"}
    # The first is sent as the program that imports the others.
    assert {f"edgenas.clock.board.{name}" for name in files - {"unpack"}} <= sent


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
        if name in at_import:
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
    assert lines <= MOST_LINES, f"{lines} lines: split it by noun"


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


# What stays small and plain


# How many there may be.
MOST = {
    "functions above 60 lines of code": 0,
    "functions with more than 8 parameters": 0,
    "mutable fields of frozen values in delivery": 0,
    "assertions of a value in delivery": 3,
    "judge, judged": 5,
    "found, outside of errors": 150,
    "likewise": 0,
    "classes of one name": 0,
    "files of cli named otherwise than their verbs": 0,
}
# Names of `edgenas/` beside `__init__.py` and `__main__.py`.
MOST_ENTRIES = 16
# Modules of the command line that are no verb.
NO_VERBS = {"__init__", "command", "console", "result"}
# Options of `specialize` that are no common words: their field, and where they matter.
OPTIONS = "retrain_top retrain_from retrain_epochs retrain_rate allow_accuracy_drop".split()
MOST_USES = dict.fromkeys(OPTIONS, 4)


def texts() -> dict[str, str]:
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in modules()}


def trees(wing: str = "") -> dict[str, ast.Module]:
    start = f"edgenas/{wing}"
    return {name: ast.parse(text) for name, text in texts().items() if name.startswith(start)}


def offences() -> dict[str, list[str]]:
    """What counts against each number of MOST."""
    held, parsed = texts(), trees()
    every = [(n, f) for n, tree in parsed.items() for f in functions(tree)]
    delivery = trees("delivery/")
    words = list(held.values())
    verbs = {verb.replace("-", "_") for verb in VERBS}
    stems = {p.stem for p in (PACKAGE / "cli").glob("*.py")} - NO_VERBS
    return {
        "functions above 60 lines of code": [
            f"{name}: {f.name}: {size}"
            for name, f in every
            if (size := code_lines(f, held[name])) > MOST_CODE
        ],
        "functions with more than 8 parameters": [
            f"{name}: {f.name}" for name, f in every if parameter_count(f) > MOST_PARAMETERS
        ],
        "mutable fields of frozen values in delivery": [
            f"{name}: {field}" for name, tree in delivery.items() for field in mutable_fields(tree)
        ],
        "assertions of a value in delivery": [
            name for name, tree in delivery.items() for _ in range(assertions_of_a_value(tree))
        ],
        "judge, judged": ["judge"] * word_count(words, "judged?"),
        "found, outside of errors": ["found"] * word_count(words, "found", but=r" \{"),
        "likewise": ["likewise"] * word_count(words, "likewise"),
        "classes of one name": [f"{n}: {where}" for n, where in repeated_classes(parsed).items()],
        "files of cli named otherwise than their verbs": sorted(stems - verbs),
    }


def test_the_package_has_few_entries():
    names = {p.name for p in PACKAGE.iterdir()} - {"__init__.py", "__main__.py", "__pycache__"}
    assert len(names) <= MOST_ENTRIES, sorted(names)


def test_what_is_counted_stays_within_its_number():
    above = {k: v for k, v in offences().items() if len(v) > MOST[k]}
    told = {k: f"{len(v)} where {MOST[k]} are the most: {sorted(set(v))}" for k, v in above.items()}
    assert not told


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_one_verb_is_named_in_few_lines(option: str):
    rule = re.compile(rf"\b{option}\b")
    lines = [
        f"{name}:{number}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if rule.search(line)
    ]
    assert len(lines) <= MOST_USES[option], lines


def test_the_counts_count():
    text = (
        "@dataclass(frozen=True)\n"
        "class A:\n"
        "    a: list[int]\n"
        "    b: tuple[dict[str, int], ...] = ()\n"
        "    c: int = 0\n"
        "\n"
        "    def f(self, a, *, b):\n"
        '        """Words.\n\n        More."""\n'
        "        # a comment\n"
        "\n"
        "        assert a is not None\n"
        "        return a\n"
    )
    tree = ast.parse(text)
    (function,) = functions(tree)
    assert code_lines(function, text) == 3
    assert parameter_count(function) == 2
    assert mutable_fields(tree) == ["A.a: list[int]", "A.b: tuple[dict[str, int], ...]"]
    assert assertions_of_a_value(tree) == 1
    assert repeated_classes({"a": tree, "b": tree}) == {"A": ["a", "b"]}
    assert word_count(["Found it, found {it}, profound"], "found", but=r" \{") == 1


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
