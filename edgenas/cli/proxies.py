"""``edgenas proxies``: zero-cost proxies, for spaces without a trained supernet."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_json, print_table, print_text, steps
from edgenas.strategies.request import ProxiesRequest

if TYPE_CHECKING:
    from edgenas.delivery.prescreening import ScreenedSpace
    from edgenas.strategies.proxies.agreement import Agreement


def run(request: ProxiesRequest, shown: Shown) -> None:
    """Score untrained networks by zero-cost proxies.

    It prints the rank correlation of every proxy with the measured accuracies of a supernet, beside
    those of the mere numbers of parameters and MACs. With --space, also keeps the best of a draw.
    """
    from edgenas.delivery.prescreening import rate_proxies

    with steps() as progress:
        result = rate_proxies(request, progress=progress, say=note)
    if shown.json:
        print_json(result.to_json())
        return
    if result.screened is not None:
        _print_screened(result.screened)
    _print_agreements(result.agreements, space=result.space.name)
    print_text(f"scores from {result.images}, fresh weights of seed {request.seed}")


def _print_screened(screened: "ScreenedSpace") -> None:
    space, networks = screened.space, screened.networks
    pairs = zip(space.decode(networks.rows), networks.scores.tolist(), strict=True)
    rows = [(arch.id, f"{score:.6g}", str(arch)) for arch, score in pairs]
    print_table((f"of {space.name}", networks.proxy, "in words"), rows)
    print_text(str(networks))


def _print_agreements(agreements: "Mapping[str, Agreement]", *, space: str) -> None:
    rows = [
        (name, f"{a.spearman:.2f}", f"[{a.low:.2f}, {a.high:.2f}]", f"{a.kendall:.2f}")
        for name, a in agreements.items()
    ]
    print_table(("ranked by", "Spearman", "95% interval", "Kendall"), rows)
    first = next(iter(agreements.values()))
    print_text(
        f"against {first.of}, {first.n} networks of {space}; params and macs are mere counts"
    )


VERB = Verb(run=run, kinds=(ProxiesRequest, Shown))
