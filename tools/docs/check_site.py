"""Check a built site: every link leads somewhere, and no page loads anything from elsewhere.

python -m tools.docs.check_site site
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, and the attribute that says from where.
_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
_NO_LOAD = {"canonical", "next", "prev", "alternate"}


class _Page(HTMLParser):
    """The anchors of a page, what it links to and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what one tag says."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        place = _LOADED.get(tag)
        if place in values and not (tag == "link" and _NO_LOAD & {*values.get("rel", "").split()}):
            self.loads.append(values[place])


def find_faults(site: Path) -> list[str]:
    """What is wrong with the pages of a site, one line each.

    Args:
        site: the folder that was built.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    if not pages:
        return [f"{site}: there are no pages"]
    # The page of the server for what is missing names everything from the root.
    return [
        f"{path.relative_to(site)}: {fault}"
        for path, page in sorted(pages.items())
        if path.name != "404.html"
        for fault in _faults_of(page, path, pages, site.resolve())
    ]


def _faults_of(page: _Page, path: Path, pages: dict[Path, _Page], site: Path) -> list[str]:
    faults = [f"loads {url}" for url in page.loads if urlsplit(url).netloc]
    for url in page.links + [url for url in page.loads if not urlsplit(url).netloc]:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            continue
        target = path.parent / unquote(parts.path) if parts.path else path
        target = (target / "index.html" if target.is_dir() else target).resolve()
        if not (target.exists() and target.is_relative_to(site)):
            faults.append(f"links to {url}, which is not there")
        elif parts.fragment and target in pages and parts.fragment not in pages[target].anchors:
            faults.append(f"links to {url}, which has no such heading")
    return faults


def main() -> int:
    """Print the faults of a site; 1 where there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path)
    site = parser.parse_args().site.resolve()
    faults = find_faults(site)
    print(*faults, sep="\n")
    print(f"{site.name}: {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
