"""``proxies``: the verb for spaces that no supernet is trained of yet."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.cli.console import bar, print_json, print_line, print_table
from edgenas.cli.photos import read_images

if TYPE_CHECKING:
    from edgenas.space.space import Space
    from edgenas.strategies.proxies import Agreement, Prescreen


def proxies(
    space: Annotated[
        str | None, typer.Option(help="Draw networks of this space and keep the best.")
    ] = None,
    proxy: Annotated[
        str, typer.Option(help="Which one keeps them: snip, grasp, synflow or naswot.")
    ] = "naswot",
    sample: Annotated[int, typer.Option(min=1, help="Networks drawn of --space.")] = 40,
    keep: Annotated[int, typer.Option(min=1, help="How many of them are kept.")] = 5,
    supernet: Annotated[
        str, typer.Option(help="Whose measured accuracies proxies are held against.")
    ] = "mbv3-cifar10",
    archs: Annotated[int, typer.Option(min=10, help="Networks of it.")] = 40,
    data: Annotated[
        str | None, typer.Option(help="Images to look at. Default: the supernet's synthetic ones.")
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Images looked at.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and weights.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score untrained networks by zero-cost proxies, and say how far such scores can be trusted.

    Prints the rank correlation of every proxy with the measured accuracies of a supernet, beside
    those of the mere numbers of parameters and MACs. With --space, also keeps the best of a draw.
    """
    from edgenas.accuracy.measured import load_predictor
    from edgenas.model.saved import find_supernet, load_supernet
    from edgenas.space.presets import load_space
    from edgenas.strategies.proxies import (
        ProxyScore,
        compare_proxies,
        draw_batch,
        draw_measured_networks,
        draw_synthetic_batch,
        prescreen,
    )

    declared = None if space is None else load_space(space)
    trained = load_supernet(find_supernet(supernet))
    own = trained.supernet.space
    rows, accuracies, of = draw_measured_networks(load_predictor(trained), count=archs, seed=seed)
    if data is None:
        batch = draw_synthetic_batch(trained, count=images, seed=seed)
    else:
        found = read_images(data, stored=trained.preprocessing.stored)
        batch = draw_batch(found, count=images, preprocessing=trained.preprocessing, seed=seed)
    kept = None
    if declared is not None:
        declared = declared.with_classes(own.classes)
        score = ProxyScore(declared, proxy=proxy, batch=batch, seed=seed)
        # The same space: what its networks reach with trained weights is known.
        judged = (rows, accuracies) if declared == own else None
        kept = prescreen(
            score, _drawn(declared, sample, seed=seed), keep=keep, judged=judged, of=of
        )
    with bar("scoring") as tell:
        agreements = compare_proxies(
            own, batch=batch, rows=rows, accuracies=accuracies, of=of, seed=seed, tell=tell
        )
    if json:
        report: dict[str, Any] = {
            "schema": "edgenas.proxies/1",
            "space": own.name,
            "images": batch.source,
            "agreements": {name: dataclasses.asdict(a) for name, a in agreements.items()},
        }
        if kept is not None and declared is not None:
            report["kept"] = _kept_json(kept, declared)
        print_json(report)
        return
    if kept is not None and declared is not None:
        _print_kept(kept, declared)
    _print_agreements(agreements, space=own.name)
    print_line(f"scores from {batch.source}, fresh weights of seed {seed}")


def _drawn(space: "Space", count: int, *, seed: int) -> Any:
    """Different networks, every choice of a gene equally likely."""
    import numpy as np

    return np.unique(space.sample(count, rng=np.random.default_rng(seed), by="gene"), axis=0)


def _kept_json(kept: "Prescreen", space: "Space") -> dict[str, Any]:
    pairs = zip(space.decode(kept.rows), kept.scores.tolist(), strict=True)
    return {
        "space": space.name,
        "proxy": kept.proxy,
        "networks": [{"arch": arch.to_json(), "score": score} for arch, score in pairs],
        "agreement": None if kept.agreement is None else dataclasses.asdict(kept.agreement),
    }


def _print_kept(kept: "Prescreen", space: "Space") -> None:
    pairs = zip(space.decode(kept.rows), kept.scores.tolist(), strict=True)
    rows = [(arch.id, f"{score:.6g}", str(arch)) for arch, score in pairs]
    print_table((f"of {space.name}", kept.proxy, "in words"), rows)
    print_line(str(kept))


def _print_agreements(agreements: "dict[str, Agreement]", *, space: str) -> None:
    rows = [
        (name, f"{a.spearman:.2f}", f"[{a.low:.2f}, {a.high:.2f}]", f"{a.kendall:.2f}")
        for name, a in agreements.items()
    ]
    print_table(("ranked by", "Spearman", "95% interval", "Kendall"), rows)
    first = next(iter(agreements.values()))
    print_line(
        f"against {first.of}, {first.n} networks of {space}; params and macs are mere counts"
    )


VERBS = {"proxies": proxies}
