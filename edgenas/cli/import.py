"""``edgenas import``: published weights, read into a supernet folder."""

from edgenas.cli.command import Verb
from edgenas.cli.console import print_line, print_text, steps
from edgenas.model.request import ImportRequest


def run(request: ImportRequest) -> None:
    """Read a published network or supernet.

    It becomes a supernet folder. A published network is one network of the elastic supernet around
    it, with the same answers. Afterwards fit the accuracy predictor: edgenas fit-accuracy.
    """
    request.check()
    from edgenas.model.importing import import_weights

    with steps() as progress:
        result = import_weights(request, progress=progress)
    print_line(f"supernet {result.folder}")
    source = f", from {result.address}" if result.address else ""
    terms = f", license {result.license}" if result.license else ""
    print_text(f"weights  SHA-256 {result.digest}{source}{terms}")
    if result.original is not None:
        print_text(f"original {result.original.id}  {result.original}")
    if not result.named:
        print_line("its classes are numbered; --labels FILE names them as your image folders are")
    print_line(f"next: edgenas fit-accuracy {result.folder} --data PATH")


VERB = Verb(run=run, kinds=(ImportRequest,))
