"""``edgenas train``: a supernet and its accuracy predictor."""

import os

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import (
    log,
    note,
    out,
    print_accuracy_fit,
    print_json,
    print_line,
    print_text,
    steps,
)
from edgenas.training.request import TrainRequest


def run(request: TrainRequest, shown: Shown) -> None:
    """Train a supernet and fit its accuracy predictor.

    Networks of it are evaluated for that at the end. Safe to interrupt at any moment; --resume
    goes on to the very same weights. Several processes:
    torchrun --nproc-per-node N -m edgenas train ...
    """
    request.check()
    from edgenas.delivery.supernets import train

    # Of the processes that torchrun started, the first one talks.
    reports = "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"
    log.quiet = out.quiet = not reports
    with steps() as progress:
        result = train(request, progress=progress, say=note)
    if not reports:
        return
    if shown.json:
        print_json(result.to_json())
        return
    print_line(f"supernet: {result.folder}")
    print_line(f"report: {result.page}")
    print_accuracy_fit(result.predictor)
    for row in result.tests or ():
        copies = f", {row.copies} of them copies of training images" if row.copies else ""
        print_text(f"{row.network}: {row.accuracy:.2%} on {row.n} test images{copies}")


VERB = Verb(run=run, kinds=(TrainRequest, Shown))
