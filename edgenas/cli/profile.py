"""``edgenas profile``: a device, measured into a latency table."""

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_json, print_line, print_text, steps
from edgenas.profiling.request import ProfileRequest


def run(request: ProfileRequest, shown: Shown) -> None:
    """Measure a device into a latency table.

    The layers of a space and some whole networks are timed. Safe to interrupt: the same command
    goes on where it was.
    """
    from edgenas.profiling.answering import profile

    with steps() as progress:
        result = profile(request, progress=progress, say=note)
    if shown.json:
        print_json(result.to_json())
        return
    table = result.table
    print_line(f"table: {result.path}")
    print_text(
        f"{len(table.layers)} layers and {len(table.networks)} networks {table.provenance} "
        f"{table.date} on {table.target}; {result.noisy} noisy"
    )
    if result.error is not None:
        error = result.error
        print_text(f"expected error {error.error:.1%}, as on {error.n} {error.method}")
    if result.energy_error is not None:
        error, watts = result.energy_error, table.environment.get("idle_watts", 0.0)
        print_text(
            f"energy: expected error {error.error:.1%}, as on {error.n} {error.method}; the board "
            f"draws {watts:.1f} W when nothing runs ({table.environment.get('power_sensor')})"
        )
    if result.heat is not None:
        print_text(f"heat: {result.heat}")


VERB = Verb(run=run, kinds=(ProfileRequest, Shown))
