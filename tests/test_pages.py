"""README and docs as a reader meets them: short lines, commands that run, pictures of today."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_house import ORDER

from edgenas.cli import VERBS
from edgenas.latency.device import load as load_device
from edgenas.space.presets import load_space
from edgenas.training.recipe import default_recipe, load_recipe
from tools.docs.check_site import find_faults
from tools.docs.make_pictures import DRAWINGS, RUNS, undominated
from tools.docs.readme_run import Block, blocks

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
CI = ROOT / ".ci" / "run"
FENCE = re.compile(r"\s*(`{3,})")
MOST_WORDS = 25  # of a sentence
# What is measured stands in docs/results. It has a date and a machine, and is often a share.
MEASURED = re.compile(r"\b20\d\d-\d\d-\d\d\b|\b(?:EPYC|Xeon|Ryzen)\b|\d[\d.]*%")
# Shares that are limits and confidences of the product, and no measurements.
LIMITS = {"1%", "5%", "8%", "90%", "95%", "98%"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(text: str) -> Iterator[str]:
    """The lines of a page outside of fenced blocks and tables."""
    fence = None
    for line in text.splitlines():
        match = FENCE.match(line)
        if fence is not None:
            fence = None if line.strip() == fence else fence
        elif match:
            fence = match[1]
        elif not line.lstrip().startswith("|"):
            yield line


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page's prose, with each piece of code as one word."""
    lines = ["" if line.startswith(("#", "    ")) else line for line in prose(text)]
    text = re.sub(r"<!--.*?-->", "", "\n".join(lines), flags=re.DOTALL)
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        plain = re.sub(r"^\s*(?:[-*]|\d+\.) ", "", part.strip())
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        plain = re.sub(r"`[^`]*`", "CODE", plain).replace("et al.", "et al")
        yield from (one for one in re.split(r"(?<=[.!?:])\)?\s+", " ".join(plain.split())) if one)


def code(language: str) -> list:
    """The blocks of a language on all pages."""
    found = [(page, block) for page in PAGES for block in blocks(read(page))]
    return [
        pytest.param(page, block, id=f"{name_of(page)}:{block.line}")
        for page, block in found
        if block.language == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_prose_are_short(page: Path):
    assert [line for line in prose(read(page)) if len(line) > 120] == []


def test_the_readme_is_short():
    lines = read(ROOT / "README.md").splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name != "results"], ids=name_of)
def test_sentences_are_short_and_tell_no_measurement(page: Path):
    told = [one for one in sentences(read(page)) if " < " not in one]  # the order of the wings
    assert [one for one in told if len(one.split()) > MOST_WORDS] == []
    shares = [word for one in told for word in MEASURED.findall(one)]
    assert set(shares) <= LIMITS, "what was measured stands in docs/results"


def test_sentences_are_told_apart():
    page = "# No\n\nOne `a b` [two](x.md). Three:\n- four et al. five\n\n    code\n\n| no |\n"
    assert list(sentences(page)) == ["One CODE two.", "Three:", "four et al five"]
    assert MEASURED.findall("2026-11-30, an EPYC, 5.5% of 8-bit") == ["2026-11-30", "EPYC", "5.5%"]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*/*.md")), ids=name_of)
def test_a_page_begins_with_for_whom_it_is_and_a_guide_with_how_long_it_takes(page: Path):
    begin = read(page).split("\n## ")[0]
    assert "For you if" in " ".join(begin.split())
    assert page.parent.name != "guides" or re.search(r"\b(?:minutes?|hours?)\b", begin)


def test_prose_is_told_from_blocks_and_tables():
    page = "a\n```\nb\n| c\n```\n| d |\n````\n```\n````\ne\n"
    assert list(prose(page)) == ["a", "e"]


@pytest.mark.parametrize(("page", "block"), code("console"))
def test_every_command_of_a_page_is_run_or_says_why_not(page: Path, block: Block):
    if page.name in ("README.md", "CONTRIBUTING.md"):
        pytest.skip("tests/test_readme.py holds README.md; .ci/run is what CONTRIBUTING.md shows")
    assert block.not_run or name_of(page) in read(CI), "add <!-- not run: REASON --> above it"


@pytest.mark.parametrize(("page", "block"), code("python"))
def test_python_of_a_page_can_be_parsed(page: Path, block: Block):
    ast.parse(block.code)


def test_the_space_the_recipe_and_the_device_of_the_guide_are_read(tmp_path: Path):
    space, recipe, stage, device = [
        block.code
        for block in blocks(read(DOCS / "guides" / "extending.md"))
        if block.language == "toml"
    ]
    (tmp_path / "mine.toml").write_text(space, encoding="utf-8")
    (tmp_path / "small.toml").write_text(recipe, encoding="utf-8")
    (tmp_path / "lab-board.toml").write_text(device, encoding="utf-8")
    own = load_space(str(tmp_path / "mine.toml"))
    assert own.name == tomllib.loads(space)["name"]
    (tmp_path / "more.toml").write_text(f"{space}\n{stage}", encoding="utf-8")
    assert load_space(str(tmp_path / "more.toml")).stages[:-1] == own.stages
    assert load_recipe(tmp_path / "small.toml", default_recipe(own)).batch == 8
    assert load_device(str(tmp_path / "lab-board.toml")).reach == "ssh"


def test_the_page_of_verbs_has_every_verb():
    listed = re.findall(r"^## `edgenas ([\w-]+)`$", read(DOCS / "reference" / "verbs.md"), re.M)
    assert listed == list(VERBS)


def texts_of_the_package() -> str:
    """The code, in which texts that go on in the next line are one."""
    whole = "\n".join(read(path) for path in (ROOT / "edgenas").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", whole)


def test_the_messages_of_the_page_are_messages_of_the_code():
    page = read(DOCS / "reference" / "messages.md")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    named = [part for row in rows for part in re.findall(r"`([^`]+)`", row)]
    texts = texts_of_the_package()
    assert len(named) > 20
    assert [part for part in named if part not in texts] == []


# Pictures


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_what_its_function_draws(name: str):
    place, draw = DRAWINGS[name]
    assert read(DOCS / place) == draw(), "run python -m tools.docs.make_pictures"


def test_the_house_has_every_wing():
    drawn = re.findall(r">([a-z_]+)</text>", read(DOCS / "concepts" / "house.svg"))
    assert set(ORDER) - {"__main__"} <= set(drawn)


def test_pictures_of_runs_show_the_product():
    terminal = read(DOCS / RUNS["terminal"][0])
    assert "promise    latency&lt;=3ms: kept" in terminal
    assert "every check passed" in terminal
    assert "a budget of 3 ms" in read(DOCS / RUNS["budget"][0])
    curves = re.findall(
        r"the (\w+) network: \d+% after 16 epochs", read(DOCS / RUNS["training"][0])
    )
    assert curves == ["largest", "smallest"]


def test_every_picture_of_the_pages_is_made_by_the_one_command():
    made = {place for place, _ in [*RUNS.values(), *DRAWINGS.values()]}
    shown = {
        (page.parent / target).resolve().relative_to(DOCS).as_posix()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", read(page))
    }
    measured = {place for place in shown if place.startswith("results/")}
    assert shown - measured <= made
    assert all((DOCS / place).is_file() for place in made)


def test_points_that_others_beat_are_left_out():
    assert undominated([(2.0, 80.0), (1.0, 70.0), (3.0, 79.0)]) == [(1.0, 70.0), (2.0, 80.0)]


# The site


def test_every_page_stands_in_the_menu():
    text = read(ROOT / "mkdocs.yml")
    listed = re.findall(r": ([\w/-]+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


def test_a_site_without_faults_has_none(tmp_path: Path):
    (tmp_path / "a.html").write_text('<h1 id="x">A</h1><a href="b/#y">b</a><a href="#x">x</a>')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h2 id="y">B</h2><img src="../p.svg">')
    (tmp_path / "p.svg").write_text("<svg/>")
    assert find_faults(tmp_path) == []


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="gone.html">x</a>', "links to gone.html, which is not there"),
        ('<a href="#gone">x</a>', "links to #gone, which has no such heading"),
        ('<img src="gone.png">', "links to gone.png, which is not there"),
        ('<script src="https://example.org/a.js"></script>', "loads https://example.org/a.js"),
    ],
)
def test_a_fault_of_a_site_is_told(tmp_path: Path, page: str, fault: str):
    (tmp_path / "a.html").write_text(page)
    assert find_faults(tmp_path.resolve()) == [f"a.html: {fault}"]


def test_an_empty_site_is_a_fault(tmp_path: Path):
    assert find_faults(tmp_path) == [f"{tmp_path}: there are no pages"]
