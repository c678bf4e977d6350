"""The pages: every link resolves, and what they name in the repository exists."""

import importlib
import re
from pathlib import Path

import pytest
from conftest import ROOT

from tools.docs.make_reference import RECIPE_PAGE, VERBS_PAGE, make_pages

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
CODE = [path for d in ("edgenas", "tools", "tests") for path in sorted((ROOT / d).rglob("*.py"))]
FOLDERS = {"guides", "concepts", "reference", "results"}

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(`{3,}).*?^\1\s*$", re.DOTALL | re.MULTILINE)
PATH = re.compile(
    r"(?<![\w:/.-])(?:edgenas|tools|tests|docs)/[\w./-]*\w\.(?:py|md|png|json|toml|yml)\b"
)
FOLDER = re.compile(r"`((?:edgenas|tools|tests|docs)/(?:[\w.-]+/)+)`")
MODULE = re.compile(r"\bpython -m ((?:tools|edgenas)[\w.]*)")
SCHEMA = re.compile(r"\bedgenas\.[a-z-]+/\d+")
DOTTED = re.compile(r"`(edgenas(?:\.[A-Za-z_]\w*)+)(?![\w.-]*/)")


def each(paths: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(plain)


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def names_something(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or a name inside one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        file = ROOT.joinpath(*parts[:length])
        if file.is_dir() or file.with_suffix(".py").is_file():
            value: object = importlib.import_module(".".join(parts[:length]))
            for name in parts[length:]:
                fields = getattr(value, "__dataclass_fields__", {})
                if not hasattr(value, name) and name not in fields:
                    return False
                value = getattr(value, name, None)
            return True
    return False


@pytest.mark.parametrize("page", each(PAGES))
def test_links_of_pages_resolve(page: Path):
    assert not broken_links(page)


def test_a_link_that_leads_nowhere_is_reported(tmp_path: Path):
    (tmp_path / "other.md").write_text("# One two: `three`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#one-two-three) [b](https://example.org) [c](other.md#four) [d](none.md)\n"
        "```\n[e](inside-code.md)\n```\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["other.md#four", "none.md"]


@pytest.mark.parametrize("page", each(PAGES))
def test_files_and_modules_that_pages_name_exist(page: Path):
    text = text_of(page)
    if page.name == "CHANGELOG.md":
        text = text.split("### Names that changed in Python")[0]
    missing = [name for name in PATH.findall(text) if not (ROOT / name).is_file()]
    missing += [name for name in FOLDER.findall(text) if not (ROOT / name).is_dir()]
    for module in MODULE.findall(text):
        if not ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file():
            missing += (
                [] if ROOT.joinpath(*module.split("."), "__main__.py").is_file() else [module]
            )
    missing += [name for name in DOTTED.findall(text) if not names_something(name)]
    assert not missing


@pytest.mark.parametrize("name", ["edgenas.space.arch.Arch", "edgenas.runtime", "edgenas"])
def test_a_dotted_name_that_exists_is_recognised(name: str):
    assert names_something(name)


@pytest.mark.parametrize(
    "name", ["edgenas.space.arch.Arc", "edgenas.runtimes.trt", "edgenas.nothing"]
)
def test_a_dotted_name_that_is_gone_is_reported(name: str):
    assert not names_something(name)


def test_pages_that_code_names_exist():
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in CODE
        if path != Path(__file__)
        for name in PATH.findall(text_of(path))
        if name.startswith("docs/")
    }
    missing = {(p, n) for p, n in named if not (ROOT / n).is_file()}
    assert not missing


def test_every_file_format_stands_on_its_page():
    listed = set(SCHEMA.findall(text_of(ROOT / "docs/reference/files.md")))
    used = {
        name
        for path in CODE
        if path.is_relative_to(ROOT / "edgenas")
        for name in SCHEMA.findall(text_of(path))
    }
    assert sorted(used - listed) == []
    lists = {
        f"edgenas.{kind}/1" for kind in ("devices", "spaces", "supernets", "runtimes", "formats")
    }
    assert sorted(listed - used - lists) == []


def test_every_page_stands_in_its_folder():
    stray = [path.name for path in (ROOT / "docs").iterdir() if path.name not in FOLDERS]
    assert sorted(stray) == ["design.md", "index.md"]


def test_the_reference_pages_are_those_that_the_code_makes():
    made = make_pages()
    for page, text in made.items():
        assert text_of(page) == text, "run python -m tools.docs.make_reference"
    verbs, recipe = made[VERBS_PAGE], made[RECIPE_PAGE]
    assert "| `--retrain-top` | whole number | `0` |" in verbs
    assert "One of evolution," in verbs
    assert "Only with `--retrain-top`." in verbs
    assert "| `epochs` | whole number | `30` | passes over the training images." in recipe
