"""``edgenas import-ofa``: a released once-for-all supernet, read into a supernet folder."""

from edgenas.cli.command import Verb
from edgenas.cli.console import print_line, steps
from edgenas.model.request import ImportOfaRequest


def run(request: ImportOfaRequest) -> None:
    """Read a released once-for-all supernet into a supernet folder.

    Afterwards fit its accuracy predictor on your images: edgenas fit-accuracy.
    """
    request.check()
    from edgenas.space.presets import load_space

    load_space(request.space)  # a wrong name is refused before torch is loaded
    from edgenas.model.importing import import_ofa

    with steps() as progress:
        result = import_ofa(request, progress=progress)
    print_line(f"supernet {result.folder}")
    source = f", from {result.address}" if result.address else ""
    print_line(f"weights  SHA-256 {result.digest}{source}")
    if request.labels is None:
        print_line("its classes are numbered; --labels FILE names them as your image folders are")
    print_line(f"next: edgenas fit-accuracy {result.folder} --data PATH")


VERB = Verb(run=run, kinds=(ImportOfaRequest,))
