"""``edgenas estimate``: a device profile of a board from a few networks timed on it."""

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_json, print_line, print_table, print_text
from edgenas.latency.request import EstimateRequest


def run(request: EstimateRequest, shown: Shown) -> None:
    """Estimate a board from a few networks timed on it.

    What is known of its relatives helps. The answer is a device profile: specialize and predict
    take its path as --device.
    """
    from edgenas.basics.units import milliseconds
    from edgenas.latency.estimating import estimate

    board = estimate(request)
    if shown.json:
        print_json(board.to_json())
        return
    relatives = board.relatives
    print_line(f"device profile: {board.path}")
    print_text(
        f"{board.measured} networks measured on it correct {relatives.boards} relatives "
        f"({relatives.name}, {relatives.networks} published networks)"
    )
    print_text(f"median error {board.median_error:.1%} ({board.method})")
    if board.checks:
        outside = "outside: measure it again, or trust the rest less"
        print_table(
            ("each from the others", "measured", "predicted", "90% interval", ""),
            [
                (
                    check.network.name,
                    milliseconds(check.network.seconds),
                    milliseconds(check.predicted),
                    f"{milliseconds(check.low)} to {milliseconds(check.high)}",
                    "" if check.inside else outside,
                )
                for check in board.checks
            ],
        )
    for network in board.time_next:
        print_text(
            f"time next: {network.file or f'{network.arch} (id {network.arch.id})'}; the 90% "
            f"intervals of space {request.space} would go from x/÷ {board.factor:.2f} to x/÷ "
            f"{network.factor:.2f}"
        )
    if request.next is not None:
        print_text(f"then add them to {request.measured} with {request.space} as their family")
    print_line(f"use it: edgenas predict --device {board.path} --model FILE.onnx")


VERB = Verb(run=run, kinds=(EstimateRequest, Shown))
