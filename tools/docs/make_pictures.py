"""Make every picture of README, guides, concepts and reference anew.

``python -m tools.docs.make_pictures`` runs the product and writes them all; names of pictures write
only those: ``python -m tools.docs.make_pictures house terminal``. The photos of a report need
Chromium. The pictures of docs/results come from the measurements that stand beside them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import edgenas
from edgenas.pages.charts import WIDTH, Plane, span, staircase
from edgenas.pages.markup import Node, node, svg_document
from tools.docs import concept_drawings, shoot
from tools.docs.shapes import BLUE, GREEN, GREY, MUTED, ORANGE, arrow, box, picture, words

DOCS = Path(__file__).parents[2] / "docs"
# The devices and the budget of the first picture.
DEVICES = {"jetson": "#1f5fae", "rpi4": "#b4560c"}
BUDGET = 3.0  # ms

# The devices whose fronts a guide shows.
FRONTS = ("jetson", "rpi4", "rpi5")

# The training whose curves a guide shows: of the smallest space, on images that are made here.
RECIPE = """\
schema = "edgenas.recipe/1"
epochs = 16
batch = 24
validation = 0.25
calibration = 48
learning_rate = 0.2
accuracy_archs = 20
"""

# What the terminal shows.
COMMANDS = ("edgenas specialize --device jetson --latency 3ms", "edgenas verify jetson-3ms-*")


def draw_budget() -> str:
    """The fronts of two devices with one budget: what one pays for accuracy on each of them."""
    request = edgenas.ParetoRequest(device=tuple(DEVICES), supernet="mbv3-cifar10")
    fronts = edgenas.pareto(request).to_json()
    lines = {
        front["device"]: undominated(
            [(p["latency_upper_ms"], 100 * p["accuracy"]) for p in front["points"]]
        )
        for front in fronts["devices"]
    }
    every = [point for points in lines.values() for point in points]
    plane = Plane.of(span([x for x, _ in every]), span([y for _, y in every]))
    parts: list[Node] = [
        plane.axes(
            x_name="upper bound of the estimated latency, ms", y_name="predicted accuracy, %"
        ),
        plane.upright(BUDGET, class_="budget", words=f"a budget of {BUDGET:g} ms"),
    ]
    bottom = plane.height
    for colour, (name, points) in zip(DEVICES.values(), lines.items(), strict=True):
        line = plane.line(staircase(points, end=plane.x.high), class_="front")
        line.set("style", f"stroke:{colour};fill:none;stroke-width:1.6")
        within = [point for point in points if point[0] <= BUDGET]
        told = f"{name}: no network keeps the budget"
        disc = None
        if within:
            bound, accuracy = within[-1]
            told = f"{name}: {accuracy:.2f}% in at most {bound:.2f} ms"
            disc = plane.mark(bound, accuracy, class_="", title=told, radius=4)
        if disc is not None:
            disc.set("fill", colour)
        parts += [line, disc, words(40, bottom + 12, told, size=10, colour=colour, anchor="start")]
        bottom += 14
    title = f"The most accurate network within {BUDGET:g} ms on {' and '.join(lines)}"
    return svg_document(*parts, width=WIDTH, height=bottom + 4, title=title)


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that none with a smaller bound beats in accuracy, by their bounds."""
    kept: list[tuple[float, float]] = []
    for bound, accuracy in sorted(points):
        if not kept or accuracy > kept[-1][1]:
            kept.append((bound, accuracy))
    return kept


def draw_house() -> str:
    """The wings of the package in the order of the data flow."""
    rows = [
        ("values", GREY, ("basics", "space")),
        ("devices", BLUE, ("clock", "onnx_graph", "runtime", "latency", "profiling")),
        ("networks", GREEN, ("images", "model", "accuracy", "training")),
        ("search", ORANGE, ("strategies",)),
        ("delivery", GREY, ("bundle", "pages", "delivery", "cli")),
    ]
    parts: list[Node] = []
    for i, (name, fill, wings) in enumerate(rows):
        y = 8 + 56 * i
        parts.append(words(0, y + 22, name, anchor="start", weight="600"))
        for k, wing in enumerate(wings):
            parts.append(box(90 + 112 * k, y, wing, fill=fill, width=102, height=34))
            if k:
                parts.append(arrow((90 + 112 * k - 9, y + 17), (90 + 112 * k, y + 17)))
        if i:  # the flow goes on from the last wing of a row to the first of the next
            last = 141 + 112 * (len(rows[i - 1][2]) - 1)
            parts.append(arrow((last, y - 22), (last, y - 12), (141, y - 12), (141, y - 1)))
    below = 8 + 56 * len(rows)
    told = "a module imports from its own wing and from those before it, never from those after it"
    parts.append(words(0, below + 8, told, anchor="start", colour=MUTED, size=11))
    return picture(*parts, width=660, height=below + 16, title="The sixteen wings of edgenas")


def draw_terminal() -> str:
    """Two commands as they ran, line by line. A reader who wants no motion sees them whole."""
    rows: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            rows.append((f"$ {command}", True))
            rows += [(line, False) for line in run(command, folder)]
    height, texts, rules = 17, [], []
    second = 0.5
    for i, (line, typed) in enumerate(rows):
        second += 1.4 if typed else 0.12
        style = "fill:#8fd18f;font-weight:600" if typed else "fill:#e6e9ec"
        text = node("text", line, x=14, y=38 + height * i, class_="row", style=style)
        text.set("xml:space", "preserve")
        text.set("id", f"r{i}")
        texts.append(text)
        rules.append(f"#r{i}{{animation-delay:{second:.2f}s}}")
    css = (
        "svg text.row{font:13px ui-monospace,Menlo,Consolas,monospace;white-space:pre}"
        "@media (prefers-reduced-motion:no-preference){.row{opacity:0;animation:show .2s forwards}"
        f"{''.join(rules)}}}@keyframes show{{to{{opacity:1}}}}"
    )
    width, total = 40 + 7.83 * max(len(line) for line, _ in rows), 52 + height * len(rows)
    document = [
        node("style", css),
        node("rect", width=width, height=total, rx=8, fill="#1c2128"),
        *[node("circle", cx=18 + 16 * i, cy=14, r=5, fill="#57606a") for i in range(3)],
        *texts,
    ]
    return picture(*document, width=width, height=total, title=" and ".join(COMMANDS))


def draw_training() -> str:
    """The curves of a short training: what its networks reach, epoch by epoch."""
    with tempfile.TemporaryDirectory() as folder:
        make_stripes(Path(folder) / "images")
        (Path(folder) / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        words_of = "edgenas train --space tiny --data images --recipe recipe.toml --out run"
        run(words_of, folder)
        text = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [line for line in map(json.loads, text.splitlines()) if "validation" in line]
    curves = {
        "the largest network": [(line["epoch"], 100 * line["validation"][0]) for line in lines],
        "the smallest network": [(line["epoch"], 100 * line["validation"][1]) for line in lines],
    }
    every = [point for points in curves.values() for point in points]
    plane = Plane.of((0, max(x for x, _ in every) * 1.02), span([y for _, y in every]))
    parts: list[Node] = [plane.axes(x_name="epochs", y_name="accuracy on validation images, %")]
    bottom = plane.height
    for colour, (name, points) in zip(DEVICES.values(), curves.items(), strict=True):
        line = plane.line(points, class_="front")
        line.set("style", f"stroke:{colour};fill:none;stroke-width:1.6")
        told = f"{name}: {points[-1][1]:.0f}% after {points[-1][0]:g} epochs"
        parts += [line, words(40, bottom + 12, told, size=10, colour=colour, anchor="start")]
        bottom += 14
    title = "A short training: the accuracy of the largest and the smallest network by epoch"
    return svg_document(*parts, width=WIDTH, height=bottom + 4, title=title)


def make_stripes(folder: Path) -> None:
    """Three classes of noisy stripes, 64 images of 16 pixels each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:16, 0:16]
    for name, wave in {"across": y, "along": x, "slanted": x + y}.items():
        (folder / name).mkdir(parents=True)
        for i in range(64):
            stripes = np.sin(wave * 1.2 + rng.uniform(0, 6))[..., None] * 70 + 128
            pixels = np.clip(stripes + rng.normal(0, 120, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


def draw_fronts() -> bytes:
    """The fronts of three devices as matplotlib draws them for users."""
    with tempfile.TemporaryDirectory() as folder:
        devices = " ".join(f"--device {name}" for name in FRONTS)
        run(f"edgenas pareto {devices} --out fronts.png", folder)
        return (Path(folder) / "fronts.png").read_bytes()


def photograph_report(name: str) -> bytes | None:
    """The report of the first bundle on a phone or a desk; None without Chromium."""
    if shoot.find_browser() is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        run("edgenas specialize --device jetson --latency 3ms --out bundle", folder)
        path = Path(folder) / f"{name}.png"
        shoot.photograph(Path(folder) / "bundle" / "report.html", path, width=shoot.WIDTHS[name])
        return path.read_bytes()


def run(command: str, folder: str) -> list[str]:
    """The lines that a command of the pictures prints in a folder; a star is the only bundle."""
    bundle = next((path.name for path in Path(folder).iterdir()), "")
    words_of = re.sub(r"\S+\*", bundle, command).split()[1:]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", *words_of],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


# Where each picture stands below docs/, and what draws it: those of runs first.
RUNS: dict[str, tuple[str, Callable[[], str | bytes | None]]] = {
    "budget": ("guides/budget.svg", draw_budget),
    "terminal": ("guides/terminal.svg", draw_terminal),
    "training": ("guides/training.svg", draw_training),
    "fronts": ("guides/fronts.png", draw_fronts),
    "report-phone": ("reference/report-phone.png", lambda: photograph_report("phone")),
    "report-desk": ("reference/report-desk.png", lambda: photograph_report("desk")),
}
DRAWINGS: dict[str, tuple[str, Callable[[], str]]] = {
    "house": ("concepts/house.svg", draw_house),
    "supernet": ("concepts/supernet.svg", concept_drawings.draw_supernet),
    "table": ("concepts/table.svg", concept_drawings.draw_table),
    "promise": ("concepts/promise.svg", concept_drawings.draw_promise),
    "estimate": ("concepts/estimate.svg", concept_drawings.draw_estimate),
    "search": ("concepts/search.svg", concept_drawings.draw_search),
}


def main() -> int:
    """Write the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    pictures = {**RUNS, **DRAWINGS}
    parser.add_argument("names", nargs="*", help=f"of {', '.join(pictures)}")
    arguments = parser.parse_args()
    for name in arguments.names or pictures:
        place, draw = pictures[name]
        drawn = draw()
        if drawn is None:
            print(f"docs/{place}: left as it is, because there is no Chromium here")
            continue
        data = drawn if isinstance(drawn, bytes) else drawn.encode("utf-8")
        (DOCS / place).write_bytes(data)
        print(f"docs/{place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
