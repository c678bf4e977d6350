"""``profile``: the verb that measures a device."""

from typing import Annotated

import typer

from edgenas.basics import units
from edgenas.cli.console import bar, note, print_json, print_line


def profile(
    device: Annotated[str, typer.Option(help="Device name or alias; see list devices.")],
    space: Annotated[str, typer.Option(help="Name of a space, or a file of one.")],
    ssh: Annotated[
        str | None, typer.Option(help="Address of the board: user@host, or a name of ssh's.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="On that board. Default: python3.")] = None,
    runtime: Annotated[str | None, typer.Option(help="Default: the device's first.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a run.")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Of the classifier. Default: the space's own.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Stop after so long, e.g. 60s; the same command goes on.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything anew.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the order and the sampled networks.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the layers of a space, and some whole networks, into a latency table.

    Safe to interrupt: the same command goes on where it was.
    """
    from edgenas.latency.device import load
    from edgenas.latency.table_file import table_path
    from edgenas.profiling.reach import clock_at_hand, timed_target
    from edgenas.profiling.run import ProfilePlan
    from edgenas.profiling.run import profile as run
    from edgenas.profiling.tables import predictor_for
    from edgenas.space.presets import load_space

    profile_of = load(device)
    time_budget = None if time is None else units.parse(time, unit="time", name="--time")
    clock = clock_at_hand(profile_of, ssh=ssh, python=python, seconds=time_budget, say=note)
    declared = load_space(space)
    if classes is not None:
        declared = declared.with_classes(classes)
    target = timed_target(
        profile_of, runtime=runtime, precision=precision, threads=threads, batch=batch
    )
    with bar(f"profiling {target}") as tell:
        table = run(
            declared,
            target=target,
            plan=ProfilePlan(seed=seed, time_budget=time_budget, fresh=fresh),
            progress=lambda step, done, total, words: tell(done, total, words),
            say=note,
            clock=clock,
        )
    path = table_path(target)
    predictor = predictor_for(table, declared)
    if json:
        print_json(
            {
                "schema": "edgenas.profile/1",
                "table": str(path),
                "layers": len(table.layers),
                "networks": len(table.networks),
                "error": predictor.error and predictor.error.to_json(),
            }
        )
        return
    timings = [*table.layers.values(), *(network.timing for network in table.networks)]
    noisy = sum(timing.noisy for timing in timings)
    print_line(f"table: {path}")
    print_line(
        f"{len(table.layers)} layers and {len(table.networks)} networks {table.provenance} "
        f"{table.date} on {target}; {noisy} noisy"
    )
    if predictor.error is not None:
        error = predictor.error
        print_line(f"expected error {error.error:.1%}, as on {error.n} {error.method}")


VERBS = {"profile": profile}
