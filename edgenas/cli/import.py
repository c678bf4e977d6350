"""``edgenas import``: a published network, read into a supernet folder."""

from edgenas.basics.options import check_request
from edgenas.cli.command import Verb
from edgenas.cli.console import print_line
from edgenas.model.request import ImportRequest


def run(request: ImportRequest) -> None:
    """Read a published network into the folder of the elastic supernet around it.

    The published network is one network of that supernet, with the same answers. Start a training
    from the folder: edgenas train --init.
    """
    check_request(request)
    from edgenas.model.importing import import_backbone

    result = import_backbone(request)
    print_line(f"supernet {result.folder}")
    print_line(f"weights  SHA-256 {result.digest}, license {result.license}")
    print_line(f"original {result.original.id}  {result.original}")
    print_line(f"next: edgenas fit-accuracy {result.folder} --data PATH")


VERB = Verb(run=run, kinds=(ImportRequest,))
