"""``edgenas import``: published weights, read into a supernet folder."""

from edgenas.cli.command import Verb
from edgenas.cli.console import print_facts, print_line, steps
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
    facts = [("supernet", str(result.folder)), ("weights", f"SHA-256 {result.digest}")]
    facts += [("from", result.address)] if result.address else []
    facts += [("license", result.license)] if result.license else []
    if result.original is not None:
        facts.append(("original", f"{result.original} (id {result.original.id})"))
    if not result.named:
        words = "its classes are numbered; --labels FILE names them as your image folders are"
        facts.append(("note", words))
    print_facts(facts)
    print_line(f"next: edgenas fit-accuracy {result.folder} --data PATH")


VERB = Verb(run=run, kinds=(ImportRequest,))
