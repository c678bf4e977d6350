"""``search`` and ``predict``: the verbs that work on tables alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.basics.errors import EdgenasError
from edgenas.cli.console import note, print_json, print_line, print_table
from edgenas.cli.modelled import predict_model

if TYPE_CHECKING:
    from edgenas.accuracy.predictor import AccuracyPredictor
    from edgenas.latency.predictor import LatencyPredictor
    from edgenas.latency.table import LatencyTable
    from edgenas.space.arch import Arch
    from edgenas.space.space import Space
    from edgenas.strategies.constraint import Constraint, Limit

_COUNTED = ("macs", "params")


def search(
    space: Annotated[str, typer.Option(help="Name of a space, or a file of one.")],
    accuracy: Annotated[Path, typer.Option(help="Accuracy predictor, a safetensors file.")],
    table: Annotated[Path | None, typer.Option(help="Latency table, for budgets of it.")] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="A budget, e.g. 'latency<=20ms'; repeatable.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Default: those of the accuracy predictor.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="evolution, aging (regularised evolution), bayes or random.")
    ] = "evolution",
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, help="Networks scored at most.  [default: 120000; bayes 60]"),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="CSV file of every network scored; an interrupted search goes on."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    compare: Annotated[
        str | None,
        typer.Option(help="Strategies to hold against random search, e.g. 'evolution,aging'."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of each strategy under --compare.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the most accurate network within budgets, by a table and a predictor alone.

    Latencies are predictions, without a margin for their error: specialize keeps one, or measures.
    """
    from edgenas.accuracy.predictor import load_accuracy
    from edgenas.latency.table_file import load_table
    from edgenas.space.presets import load_space
    from edgenas.strategies.constraint import parse_constraint
    from edgenas.strategies.run import search as run

    if compare is not None and history is not None:
        raise EdgenasError(
            "--history is of one search, --compare runs many", hint="leave out one of them"
        )
    constraints = [parse_constraint(text, name="--constraint") for text in constraint or ()]
    declared = load_space(space)
    predictor = load_accuracy(accuracy)
    declared = declared.with_classes(classes or predictor.space.classes)
    known = None if table is None else load_table(table)
    if known is not None:
        declared = _covered(declared, known)
    predictor = predictor.on(declared)
    latency = None if known is None else _latency(known, declared)
    limits = [_limit(declared, c, latency) for c in constraints]
    if compare is not None:
        _compare(
            declared, predictor, limits, compare, evaluations=evaluations, seeds=seeds, json=json
        )
        return
    found = run(
        declared,
        maximize=predictor,
        subject_to=limits,
        strategy=strategy,
        seed=seed,
        evaluations=evaluations,
        history=history,
    )
    best = _described(declared, found.best.arch, latency) | {"accuracy": found.best.score}
    if json:
        report = {
            "schema": "edgenas.search/1",
            "space": declared.name,
            "best": best,
            "evaluations": found.evaluations,
            "seconds": found.seconds,
            "strategy": found.strategy,
            "seed": found.seed,
        }
        print_json(report)
        return
    error = predictor.error
    off = "" if error is None else f", mean error {100 * error.error:.2f} points on {error.n} archs"
    rows = [
        ("network", f"{found.best.arch} (id {found.best.arch.id})"),
        ("accuracy", f"{found.best.score:.2%} predicted ({predictor.source}{off})"),
    ]
    if latency is not None and known is not None:
        rows.append(("latency", f"{_latency_text(best)} on {known.target}"))
    rows += [(name, f"{best[name]}") for name in _COUNTED]
    rows.append(("search", f"{found.evaluations} networks scored in {found.seconds:.1f} s"))
    print_table(("", ""), rows)


def _compare(
    space: "Space",
    predictor: "AccuracyPredictor",
    limits: "list[Limit]",
    names: str,
    *,
    evaluations: int | None,
    seeds: int,
    json: bool,
) -> None:
    """Print what strategies reach, against random search."""
    from edgenas.strategies.compare import compare_strategies
    from edgenas.strategies.run import EVALUATIONS, EXPENSIVE

    strategies = [name.strip() for name in names.split(",") if name.strip()]
    each = evaluations or (EXPENSIVE if "bayes" in strategies else EVALUATIONS)
    found = compare_strategies(
        space,
        maximize=predictor,
        subject_to=limits,
        strategies=strategies,
        evaluations=each,
        seeds=seeds,
    )
    base = next(c for c in found if c.strategy == "random")
    if json:
        rows = [
            {
                "strategy": c.strategy,
                "scores": list(c.scores),
                "mean": c.mean,
                "spread": c.spread,
                "against_random": c.mean - base.mean,
                "wins": c.wins,
                "seconds": c.seconds,
                "evaluations": c.evaluations,
            }
            for c in found
        ]
        head = {"schema": "edgenas.comparison/1", "space": space.name, "evaluations": each}
        print_json(head | {"seeds": seeds, "strategies": rows})
        return
    print_table(
        ("strategy", "accuracy", "spread", "against random", "better seeds", "seconds"),
        [
            (
                c.strategy,
                f"{c.mean:.2%}",
                f"{100 * c.spread:.2f}",
                f"{100 * (c.mean - base.mean):+.2f}",
                f"{c.wins} of {seeds}",
                f"{c.seconds:.2f}",
            )
            for c in found
        ],
    )
    print_line(
        f"predicted accuracy ({predictor.source}), mean and standard deviation of {seeds} seeds; "
        f"at most {each} networks scored by each; points"
    )


def predict(
    device: Annotated[str, typer.Option(help="Device name or alias; see list devices.")],
    arch: Annotated[Path | None, typer.Option(help="arch.json, of a bundle for example.")] = None,
    model: Annotated[Path | None, typer.Option(help="Or any network: an ONNX file.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Of an ONNX file's image, e.g. 224, where it is open.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Of an input of an ONNX file: image=1x3x224x224; repeatable."),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Its space. Default: the shipped one that holds it.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Default: the device's first.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a run.")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Of the classifier. Default: the space's own.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Of the upper bound.")
    ] = 0.95,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict the latency of a network on a device: a number, its bound, where they are from."""
    if (arch is None) == (model is None):
        raise EdgenasError("either --arch or --model must be given: the network")
    if model is not None:
        predict_model(
            model,
            device=device,
            size=size,
            shape=shape or [],
            runtime=runtime,
            precision=precision,
            threads=threads,
            batch=batch,
            confidence=confidence,
            json=json,
        )
        return
    assert arch is not None
    from edgenas.latency import device as devices
    from edgenas.space.arch import load_arch
    from edgenas.space.cost import total
    from edgenas.space.presets import load_space

    profile = devices.load(device)
    chosen = load_arch(arch)
    declared = load_space(space) if space is not None else _space_of(chosen)
    declared.check(chosen)
    if classes is not None:
        declared = declared.with_classes(classes)
    from edgenas.delivery.latency import find_latency
    from edgenas.delivery.preparing import check_runtime

    if runtime is not None:
        check_runtime(runtime)
    target = profile.target(runtime=runtime, precision=precision, threads=threads, batch=batch)
    latency = find_latency(declared, device=profile, target=target)
    rows = declared.encode([chosen])
    notes = latency.cautions(total(declared, chosen).macs, space=declared)
    report = {
        "schema": "edgenas.prediction/1",
        "target": str(target),
        "arch_id": chosen.id,
        "latency_ms": float(latency.predictor.predict(rows)[0]) * 1e3,
        "latency_upper_ms": float(latency.upper(confidence)(rows)[0]) * 1e3,
        "confidence": confidence,
        "bound": latency.bound_words(confidence),
        "provenance": latency.predictor.provenance,
        "source": latency.source,
        "notes": notes,
    }
    if json:
        print_json(report)
        return
    print_line(f"{chosen} (id {chosen.id}) on {target}")
    print_line(
        f"{_latency_text(report)} at {confidence:.0%} confidence ({report['bound']}; from "
        f"{latency.source})",
    )
    for text in notes:
        print_line(f"note: {text}")


def _latency_text(found: dict[str, Any]) -> str:
    from edgenas.basics.units import milliseconds

    kind = found["provenance"]
    how = kind if kind == "estimated" else f"predicted from {kind} numbers"
    text = f"{milliseconds(found['latency_ms'] / 1e3)} {how}"
    if found["latency_upper_ms"] is None:
        return f"{text}, error not known"
    return f"{text}, at most {milliseconds(found['latency_upper_ms'] / 1e3)}"


def _space_of(arch: "Arch") -> "Space":
    from edgenas.space.presets import PRESETS

    found = [name for name, make in PRESETS.items() if make().contains(arch)]
    if len(found) != 1:
        are = f"it is in {', '.join(found)}" if found else "no shipped space holds it"
        raise EdgenasError(
            f"--space must be given for the network {arch.id}: {are}",
            hint="see them all with: edgenas list spaces",
        )
    return PRESETS[found[0]]()


def _covered(space: "Space", table: "LatencyTable") -> "Space":
    """The space as far as a published table goes; one of our own can be filled, and is not."""
    resolutions = table.covered_resolutions(space)
    if table.provenance != "published" or not resolutions or resolutions == space.resolutions:
        return space
    named = ", ".join(map(str, resolutions))
    note(f"only resolutions {named} are searched: the published table covers no others")
    return space.restrict(resolution=resolutions)


def _latency(table: "LatencyTable", space: "Space") -> "LatencyPredictor":
    from edgenas.profiling.tables import predictor_for

    return predictor_for(table, space)


def _limit(space: "Space", constraint: "Constraint", latency: "LatencyPredictor | None") -> "Limit":
    from edgenas.space.cost import macs_table, params_table
    from edgenas.strategies.constraint import Limit

    if constraint.target:
        raise EdgenasError(
            f"--constraint {constraint} names a device, a search has the one of its table",
            hint=f"write {constraint.metric}<={constraint.text} and give the table of that device",
        )
    if constraint.metric in _COUNTED:
        tables = macs_table(space) if constraint.metric == "macs" else params_table(space)
        return Limit(constraint=constraint, values=tables)
    if constraint.metric != "latency":
        raise EdgenasError(
            f"--constraint must be of latency, macs or params here, found {constraint}",
            hint="memory and energy depend on the device: edgenas specialize",
        )
    if latency is None:
        raise EdgenasError(
            f"--constraint {constraint} needs a latency table",
            hint="pass --table FILE, for example one that edgenas profile wrote",
        )
    return Limit(constraint=constraint, values=latency.predict, guide=latency.tables())


def _described(space: "Space", arch: "Arch", latency: "LatencyPredictor | None") -> dict[str, Any]:
    from edgenas.space.cost import total

    costs = total(space, arch)
    found: dict[str, Any] = {"arch": arch.to_json(), "arch_id": arch.id}
    if latency is not None:
        rows = space.encode([arch])
        bounded = latency.bound_kind(0.95) != "none"
        found |= {
            "latency_ms": float(latency.predict(rows)[0]) * 1e3,
            "latency_upper_ms": float(latency.upper(rows, confidence=0.95)[0]) * 1e3
            if bounded
            else None,
            "provenance": latency.provenance,
        }
    return found | {"macs": costs.macs, "params": costs.params}


VERBS = {"search": search, "predict": predict}
