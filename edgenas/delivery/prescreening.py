"""``proxies``: untrained networks, scored; and how far such scores can be trusted."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.accuracy.measured import load_predictor
from edgenas.basics.options import check_request
from edgenas.basics.progress import Progress, Say, no_progress, say_nothing
from edgenas.delivery.reading import read_images
from edgenas.model.saved import find_supernet, load_supernet
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.strategies.proxies.agreement import Agreement, compare_proxies, draw_measured_networks
from edgenas.strategies.proxies.batch import draw_batch, draw_synthetic_batch
from edgenas.strategies.proxies.prescreen import Prescreen, prescreen
from edgenas.strategies.proxies.score import ProxyScore
from edgenas.strategies.request import ProxiesRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedSpace:
    """The best networks of a draw from a space, by a proxy."""

    space: Space
    networks: Prescreen

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        pairs = zip(
            self.space.decode(self.networks.rows), self.networks.scores.tolist(), strict=True
        )
        agreement = self.networks.agreement
        return {
            "space": self.space.name,
            "proxy": self.networks.proxy,
            "networks": [{"arch": arch.to_json(), "score": score} for arch, score in pairs],
            "agreement": None if agreement is None else dataclasses.asdict(agreement),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyComparison:
    """How well proxies rank the networks of a supernet, and what one of them kept.

    Args:
        space: of the supernet.
        images: the images that proxies looked at, in words.
        agreements: rank correlations with measured accuracies, by proxy; also those of the mere
            numbers of parameters and MACs.
        screened: the best of a draw; None where no space was named.
    """

    space: Space
    images: str
    agreements: Mapping[str, Agreement]
    screened: ScreenedSpace | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        report: dict[str, Any] = {
            "schema": "edgenas.proxies/1",
            "space": self.space.name,
            "images": self.images,
            "agreements": {name: dataclasses.asdict(a) for name, a in self.agreements.items()},
        }
        if self.screened is not None:
            report["kept"] = self.screened.to_json()
        return report


def rate_proxies(
    request: ProxiesRequest, *, progress: Progress = no_progress, say: Say = say_nothing
) -> ProxyComparison:
    """Score untrained networks by zero-cost proxies and compare the scores with accuracies.

    Raises:
        EdgenasError: a name is unknown, the images cannot be read, or the supernet has too few
            networks whose accuracy was measured.
    """
    check_request(request)
    space = None if request.space is None else load_space(request.space)
    trained = load_supernet(find_supernet(request.supernet))
    own, seed = trained.supernet.space, request.seed
    rows, accuracies, of = draw_measured_networks(
        load_predictor(trained), count=request.archs, seed=seed
    )
    if request.data is None:
        batch = draw_synthetic_batch(trained, count=request.images, seed=seed)
    else:
        steps = trained.preprocessing
        images = read_images(
            request.data, stored=steps.stored, framing=steps.framing, progress=progress, say=say
        )
        batch = draw_batch(
            images, count=request.images, preprocessing=trained.preprocessing, seed=seed
        )
    screened = None
    if space is not None:
        space = space.with_classes(own.classes)
        networks = prescreen(
            ProxyScore(space, proxy=request.proxy, batch=batch, seed=seed),
            _draw(space, request.sample, seed=seed),
            keep=request.keep,
            # In the space of the supernet, what networks reach with trained weights is known.
            measured=(rows, accuracies) if space == own else None,
            of=of,
        )
        screened = ScreenedSpace(space=space, networks=networks)
    agreements = compare_proxies(
        own,
        batch=batch,
        rows=rows,
        accuracies=accuracies,
        of=of,
        seed=seed,
        progress=progress,
    )
    return ProxyComparison(space=own, images=batch.source, agreements=agreements, screened=screened)


def _draw(space: Space, count: int, *, seed: int) -> Any:
    """Different networks. Every choice of a gene is equally likely."""
    return np.unique(space.sample(count, rng=np.random.default_rng(seed), by="gene"), axis=0)
