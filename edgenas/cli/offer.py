"""``specialize`` and ``verify``: the verbs that deliver."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.cli.console import bar, note, out, print_json, print_table
from edgenas.errors import EdgenasError

if TYPE_CHECKING:
    from edgenas.search import Constraint
    from edgenas.specialize import Result


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    app.command()(specialize)
    app.command()(verify)


def specialize(
    device: Annotated[str, typer.Option(help="Device name or alias, or a profile; see list.")],
    latency: Annotated[str | None, typer.Option(help="Budget of one run, e.g. 20ms.")] = None,
    params: Annotated[str | None, typer.Option(help="Budget of parameters, e.g. 4M.")] = None,
    macs: Annotated[str | None, typer.Option(help="Budget of MACs, e.g. 300M.")] = None,
    memory: Annotated[str | None, typer.Option(help="Budget of memory, e.g. 16MB.")] = None,
    energy: Annotated[str | None, typer.Option(help="Budget of one run, e.g. 50mJ.")] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="Any budget, e.g. 'latency<=20ms'; repeatable.")
    ] = None,
    supernet: Annotated[
        str, typer.Option(help="Name or folder of a trained supernet.")
    ] = "mbv3-cifar10",
    runtime: Annotated[str | None, typer.Option(help="Default: the device's first.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a run.")] = None,
    percentile: Annotated[
        str, typer.Option(help="p50 (median at full speed) or p95 of all runs.")
    ] = "p50",
    confidence: Annotated[
        float, typer.Option(help="Of the upper bound where nothing can be measured.")
    ] = 0.95,
    strategy: Annotated[str, typer.Option(help="Search strategy.")] = "evolution",
    data: Annotated[
        str | None, typer.Option(help="The training images: accuracy is measured, not predicted.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test images to measure accuracy on.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Default: ./<device>-<budget>-<arch id>.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the most accurate network within the budgets, verify it and write its bundle."""
    from edgenas.search import parse_constraint

    given = {
        "latency": latency,
        "params": params,
        "macs": macs,
        "memory": memory,
        "energy": energy,
    }
    # Text is checked before torch and the supernet are loaded: a typing slip answers at once.
    constraints = [parse_constraint(f"{k}<={v}", name=f"--{k}") for k, v in given.items() if v]
    constraints += [parse_constraint(text, name="--constraint") for text in constraint or ()]
    if percentile not in ("p50", "p95"):
        raise EdgenasError(f"--percentile must be p50 or p95, found {percentile!r}")
    if not 0.5 <= confidence < 1:
        raise EdgenasError(f"--confidence must be from 0.5 to below 1, found {confidence}")
    _check_device(device)
    from edgenas.specialize import Request
    from edgenas.specialize import specialize as run

    shown: dict[str, Any] = {}

    def tell(step: str, done: int, total: int, words: str) -> None:
        if step not in shown:
            close()
            shown[step] = bar(step)
            shown["tell"] = shown[step].__enter__()
        shown["tell"](done, total, words)

    def close() -> None:
        for key in [k for k in shown if k != "tell"]:
            if shown[key] is not None:
                shown[key].__exit__(None, None, None)
                shown[key] = None

    request = Request(
        device=device,
        constraints=tuple(constraints),
        supernet=supernet,
        runtime=runtime,
        precision=precision,
        threads=threads,
        batch=batch,
        percentile="p50" if percentile == "p50" else "p95",
        confidence=confidence,
        strategy=strategy,
        data=data,
        test=test,
        seed=seed,
    )
    try:
        result = run(request, out=out_folder, force=force, tell=tell)
    finally:
        close()
    if json:
        print_json(_result_json(result))
    else:
        _print_result(result, constraints)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every claim of a bundle again: hashes, the graph, the numbers, the stored output."""
    from edgenas.bundle import verify_bundle

    checks = verify_bundle(bundle)
    failed = [check for check in checks if not check.passed]
    if json:
        rows = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks]
        print_json({"schema": "edgenas.verification/1", "passed": not failed, "checks": rows})
    else:
        print_table(
            ("check", "", "found"),
            [(c.name, "ok" if c.passed else "FAILED", c.detail) for c in checks],
        )
        out.print(f"{bundle}: {'every check passed' if not failed else 'NOT to be trusted'}")
    if failed:
        raise typer.Exit(2)


def _check_device(device: str) -> None:
    from edgenas.device import load

    load(device)


def _result_json(result: "Result") -> dict[str, Any]:
    return {
        "schema": "edgenas.result/1",
        "folder": str(result.folder),
        "existed": result.existed,
        "arch": result.arch.to_json(),
        "arch_id": result.arch.id,
        "report": result.record.to_json(),
    }


def _print_result(result: "Result", constraints: "list[Constraint]") -> None:
    record = result.record
    rows = [
        ("target", str(record.target)),
        ("network", f"{result.arch} (id {result.arch.id})"),
        ("costs", record.costs_text()),
        ("accuracy", str(record.accuracy)),
    ]
    if record.predicted is not None:
        rows.append(("latency", str(record.predicted)))
    if record.measured is not None:
        rows.append(("latency", str(record.measured)))
    rows += [("promise", str(promise)) for promise in record.promises]
    rows += [("note", text) for text in record.notes]
    print_table(("", ""), rows)
    if not constraints:
        note("no budget was given: this is the most accurate network of the space")
    if result.existed:
        out.print(f"{result.folder} held this very bundle already; every check passed")
    else:
        out.print(f"bundle: {result.folder}   check it again: edgenas verify {result.folder}")
