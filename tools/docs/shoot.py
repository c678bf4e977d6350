"""Photograph a page as a phone and a desk show it, in Chromium.

    python -m tools.docs.shoot report.html docs/reference/report

writes ``docs/reference/report-phone.png`` (390 pixels wide) and
``docs/reference/report-desk.png`` (1200).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

WIDTHS = {"phone": 390, "desk": 1200}
_TALL = 6000


def find_browser() -> str | None:
    """The path of Chromium; None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def photograph(page: Path, path: Path, *, width: int, dark: bool = False, height: int = 0) -> None:
    """Write the picture of a page.

    Args:
        page: an HTML file.
        path: the PNG file to write.
        width: of the window, in pixels.
        dark: whether the dark theme is shown.
        height: in pixels; what is below is cut. 0: nothing is.

    Raises:
        FileNotFoundError: there is no Chromium here.
    """
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError("no chromium here")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        # A process of its own profile: nothing of the user's is read or written.
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={folder}/profile", f"--window-size={width},{_TALL}"]
        words += ["--blink-settings=preferredColorScheme=0"] if dark else []
        words += [f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(words, check=True, capture_output=True, timeout=120)
        with Image.open(shot, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    used = np.flatnonzero((pixels != pixels[-1, -1]).any(axis=(1, 2)))
    bottom = min(len(pixels), int(used[-1]) + 24, height or _TALL)
    small = Image.fromarray(pixels[:bottom]).quantize(256, method=Image.Quantize.FASTOCTREE)
    small.save(path, optimize=True)
    print(f"{path}: {small.width}x{small.height}, {path.stat().st_size // 1000} kB")


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", type=Path)
    parser.add_argument("prefix", help="of the pictures")
    parser.add_argument("--dark", action="store_true", help="the dark theme")
    parser.add_argument("--height", type=int, default=0, help="cut there")
    arguments = parser.parse_args()
    if find_browser() is None:
        print("no chromium here", file=sys.stderr)
        return 1
    for name, width in WIDTHS.items():
        path = Path(f"{arguments.prefix}-{name}.png")
        look = {"dark": arguments.dark, "height": arguments.height}
        photograph(arguments.page, path, width=width, **look)
    return 0


if __name__ == "__main__":
    sys.exit(main())
