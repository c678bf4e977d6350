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


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", type=Path)
    parser.add_argument("prefix", help="of the pictures")
    parser.add_argument("--dark", action="store_true", help="the dark theme")
    parser.add_argument("--height", type=int, help="cut there")
    arguments = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("no chromium here", file=sys.stderr)
        return 1
    for name, width in WIDTHS.items():
        with tempfile.TemporaryDirectory() as folder:
            shot = Path(folder) / "shot.png"
            # A process of its own profile: nothing of the user's is read or written.
            words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            words += [f"--user-data-dir={folder}/profile", f"--window-size={width},{_TALL}"]
            words += ["--blink-settings=preferredColorScheme=0"] if arguments.dark else []
            words += [f"--screenshot={shot}", arguments.page.resolve().as_uri()]
            subprocess.run(words, check=True, capture_output=True, timeout=120)
            with Image.open(shot, formats=["PNG"]) as image:
                pixels = np.asarray(image.convert("RGB"))
        used = np.flatnonzero((pixels != pixels[-1, -1]).any(axis=(1, 2)))
        bottom = min(len(pixels), int(used[-1]) + 24, arguments.height or _TALL)
        path = Path(f"{arguments.prefix}-{name}.png")
        small = Image.fromarray(pixels[:bottom]).quantize(256, method=Image.Quantize.FASTOCTREE)
        small.save(path, optimize=True)
        print(f"{path}: {small.width}x{small.height}, {path.stat().st_size // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
