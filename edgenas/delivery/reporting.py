"""``report``: the HTML page of a bundle or of a training, written anew."""

from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_text
from edgenas.basics.options import check_request
from edgenas.delivery.export_request import ReportRequest


def report(request: ReportRequest) -> Path:
    """Write the page and return its path. It is one file that needs nothing else.

    The page of a training is replaced where it is, for nothing vouches for it. The page of a
    bundle is a part of the bundle, so another file must be named.

    Raises:
        EdgenasError: the folder is neither a bundle nor a training, or ``out`` is missing or there.
    """
    check_request(request)
    trained = (request.folder / "run.json").exists()
    if request.out is None and not trained:
        raise EdgenasError(
            "--out must name the HTML file to write",
            hint=f"edgenas report {request.folder} --out page.html",
        )
    if request.out is not None:
        check_replaceable(request.out, force=request.force)
    path = request.out or request.folder / "report.html"
    write_text(path, _training_page(request.folder) if trained else _bundle_page(request.folder))
    return path


def check_replaceable(path: Path, *, force: bool) -> None:
    """Refuse to replace a file.

    Raises:
        EdgenasError: a folder is there, or a file and ``force`` is not set.
    """
    if path.is_dir():
        raise EdgenasError(f"--out {path} is a folder", hint="name a file")
    if path.exists() and not force:
        raise EdgenasError(
            f"--out {path} is there already", hint="replace it with --force, or choose another"
        )


def _bundle_page(folder: Path) -> str:
    from edgenas.bundle.contents import read_contents
    from edgenas.bundle.write import load_bundle
    from edgenas.pages.bundle import bundle_page

    load_bundle(folder)
    return bundle_page(read_contents(folder))


def _training_page(folder: Path) -> str:
    from edgenas.pages.training import training_page
    from edgenas.training.history import read_history

    return training_page(read_history(folder))
