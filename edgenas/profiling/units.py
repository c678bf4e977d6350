"""What a profile times: the layers of a space one by one, and some whole networks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from edgenas.arch import Arch
from edgenas.plan import Layer, layers
from edgenas.profiling.graph import layer_graph, network_graph
from edgenas.profiling.networks import calibration_archs, random_archs
from edgenas.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One thing to time: a layer alone, or a whole network.

    Args:
        name: different for each; also its name in the journal.
        of: the layer or the network.
        build: makes its ONNX graph, the same bytes each time.
    """

    name: str
    of: Layer | Arch
    build: Callable[[], bytes]


def units_of(
    space: Space, *, batch: int, networks: int, further: int, seed: int
) -> dict[str, Unit]:
    """The units of a profile by name: the distinct layers of a space, and networks of it.

    Args:
        space: the space.
        batch: images a run.
        networks: spread over the space, for the line from sums of layers to networks.
        further: random ones, for the bound.
        seed: of the random ones.
    """
    archs = [*calibration_archs(space, networks), *random_archs(space, further, seed=seed)]
    units = [_layer_unit(layer, batch=batch) for layer in layers(space)]
    units += [_network_unit(space, arch, batch=batch) for arch in archs]
    return {unit.name: unit for unit in units}


def digest(graph: bytes) -> str:
    """The SHA-256 of a graph, in hex."""
    return hashlib.sha256(graph).hexdigest()


def _layer_unit(layer: Layer, *, batch: int) -> Unit:
    return Unit(name=str(layer), of=layer, build=lambda: layer_graph(layer, batch=batch))


def _network_unit(space: Space, arch: Arch, *, batch: int) -> Unit:
    name = f"{space.name}/{space.classes} {arch}"
    return Unit(name=name, of=arch, build=lambda: network_graph(space, arch, batch=batch))
