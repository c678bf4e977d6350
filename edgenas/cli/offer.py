"""``specialize`` and ``verify``: the verbs that deliver."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.basics.errors import EdgenasError, one_line
from edgenas.cli.console import (
    note,
    print_json,
    print_line,
    print_table,
    steps,
)
from edgenas.cli.fleet import specialize_all

if TYPE_CHECKING:
    from edgenas.delivery.request import Result
    from edgenas.strategies.constraint import Constraint


class Percentile(StrEnum):
    """What a measured latency is held to."""

    p50 = "p50"
    p95 = "p95"


class Weights(StrEnum):
    """Whether a gradient strategy trains weights."""

    fixed = "fixed"
    joint = "joint"


class Start(StrEnum):
    """What retraining starts from."""

    inherited = "inherited"
    scratch = "scratch"


def specialize(
    context: typer.Context,
    device: Annotated[
        str | None, typer.Option(help="Device name or alias, or a profile; see list.")
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of many devices and budgets; with --out, --sign, --force, --json."
        ),
    ] = None,
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
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16, int8, or auto: what measures best.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a run.")] = None,
    percentile: Annotated[
        Percentile, typer.Option(help="p50 (median at full speed) or p95 of all runs.")
    ] = Percentile.p50,
    confidence: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Of the bound where nothing can be measured."),
    ] = 0.95,
    strategy: Annotated[
        str,
        typer.Option(
            help="evolution, aging, random; with --data also bayes, proxyless, gumbel, reinforce."
        ),
    ] = "evolution",
    data: Annotated[
        str | None, typer.Option(help="The training images: accuracy is measured, not predicted.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test images to measure accuracy on.")] = None,
    allow_accuracy_drop: Annotated[
        bool, typer.Option("--allow-accuracy-drop", help="Ship int8 whatever it loses.")
    ] = False,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read.")
    ] = False,
    weights: Annotated[
        Weights, typer.Option(help="fixed; joint: proxyless, gumbel and reinforce train them too.")
    ] = Weights.fixed,
    retrain_top: Annotated[
        int, typer.Option(min=0, help="Train so many of the best further; the best then ships.")
    ] = 0,
    retrain_from: Annotated[
        Start, typer.Option(help="inherited (the supernet's weights) or scratch.")
    ] = Start.inherited,
    retrain_epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 10; from scratch 60.")
    ] = None,
    retrain_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate. Default: 0.02; scratch: the recipe's.")
    ] = None,
    ssh: Annotated[
        str | None, typer.Option(help="Measure on this board: user@host, or a name of ssh's.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="On that board. Default: python3.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    sign: Annotated[
        str | None, typer.Option(help="Sign the bundle with this SSH key (docs/reports.md).")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Default: ./<device>-<budget>-<arch id>.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the most accurate network within the budgets, verify it and write its bundle."""
    if devices is not None:
        _refuse_beside(context, "devices", "out_folder", "sign", "force", "json")
        specialize_all(devices, out=out_folder, sign=sign, force=force, json=json)
        return
    if device is None:
        raise EdgenasError("missing option '--device', or '--devices' with a file of many")
    from edgenas.basics.units import parse
    from edgenas.strategies.constraint import METRICS, Constraint, parse_constraint

    given = {
        "latency": latency,
        "params": params,
        "macs": macs,
        "memory": memory,
        "energy": energy,
    }
    # Text is checked before torch and the supernet are loaded: a typing slip answers at once.
    constraints = [
        Constraint(metric, parse(text, unit=METRICS[metric], name=f"--{metric}"), text.strip())
        for metric, text in given.items()
        if text is not None
    ]
    constraints += [parse_constraint(text, name="--constraint") for text in constraint or ()]
    from edgenas.latency.device import load

    load(device)
    if sign is not None:
        from edgenas.bundle.signing import check_key

        check_key(sign)
    from edgenas.delivery.request import Request
    from edgenas.delivery.run import specialize as run

    request = Request(
        device=device,
        constraints=tuple(constraints),
        supernet=supernet,
        runtime=runtime,
        precision=precision,
        threads=threads,
        batch=batch,
        percentile=percentile.value,
        confidence=confidence,
        strategy=strategy,
        data=data,
        test=test,
        allow_accuracy_drop=allow_accuracy_drop,
        skip_bad_images=skip_bad_images,
        weights=weights.value,
        retrain_top=retrain_top,
        retrain_from=retrain_from.value,
        retrain_epochs=retrain_epochs,
        retrain_rate=retrain_rate,
        seed=seed,
        ssh=ssh,
        python=python,
        sign=sign,
    )
    with steps() as tell:
        result = run(request, out=out_folder, force=force, tell=tell)
    if json:
        print_json(_result_json(result))
    else:
        _print_result(result, constraints)


def _refuse_beside(context: typer.Context, *allowed: str) -> None:
    """Refuse options that a file of devices would have to say itself."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            word = name.replace("_", "-")
            raise EdgenasError(
                f"--{word} cannot be given beside --devices", hint=f"write {name} into that file"
            )


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    signers: Annotated[
        Path | None,
        typer.Option(help="Require a signature of one of these: allowed signers, as for git."),
    ] = None,
    revoked: Annotated[
        Path | None, typer.Option(help="Keys that are not to be trusted; with --signers.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every claim of a bundle again: hashes, the graph, the numbers, the stored output.

    With --signers also who made it.
    """
    from edgenas.bundle.signing import check_signature
    from edgenas.bundle.verify import verify_bundle
    from edgenas.pages.bundle import bundle_page

    if revoked is not None and signers is None:
        raise EdgenasError("--revoked is a part of --signers: it needs that too")
    checks = verify_bundle(bundle, page=bundle_page, signers=signers, revoked=revoked)
    signed = check_signature(bundle, signers=signers, revoked=revoked)
    failed = [check for check in checks if not check.passed]
    if json:
        rows = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks]
        print_json(
            {
                "schema": "edgenas.verification/1",
                "passed": not failed,
                "checks": rows,
                "signature": signed.to_json(),
            }
        )
    else:
        print_table(
            ("check", "", "found"),
            [(c.name, "ok" if c.passed else "FAILED", c.detail) for c in checks],
        )
        who = {
            "good": f"made by {one_line(signed.principal)}",
            "absent": "who made it is not known: it is not signed",
        }.get(signed.state, "who made it was not checked: --signers FILE")
        verdict = "NOT to be trusted" if failed else f"every check passed; {who}"
        print_line(f"{bundle}: {verdict}")
    if failed:
        raise typer.Exit(2)


def _result_json(result: "Result") -> dict[str, Any]:
    return {
        "schema": "edgenas.result/1",
        "folder": str(result.folder),
        "existed": result.existed,
        "signed_by": result.signed_by or None,
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
    if record.retraining is not None:
        rows.append(("retrained", str(record.retraining)))
    if record.predicted is not None:
        rows.append(("latency", str(record.predicted)))
    if record.measured is not None:
        rows.append(("latency", str(record.measured)))
    rows += [("promise", str(promise)) for promise in record.promises]
    if result.signed_by:
        rows.append(("signed", f"by the key {result.signed_by}"))
    rows += [("note", text) for text in record.notes]
    print_table(("", ""), rows)
    if not constraints:
        note("no budget was given: this is the most accurate network of the space")
    if result.existed:
        print_line(f"{result.folder} held this very bundle already; every check passed")
    else:
        print_line(f"bundle: {result.folder}   check it again: edgenas verify {result.folder}")


VERBS = {"specialize": specialize, "verify": verify}
