"""What a profile times: the layers of a space one by one, and some whole networks.

`edgenas.profiling.method` says how layers are timed.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgenas.basics.units import pixels
from edgenas.onnx_graph.build import copies_graph, layer_graph, network_graph
from edgenas.onnx_graph.forms import Form, convert_layer_to_form, convert_to_form
from edgenas.profiling.method import COPIES
from edgenas.runtime.contract import Method
from edgenas.space.arch import Arch
from edgenas.space.cost import peak_table, weights_table
from edgenas.space.layer import Layer
from edgenas.space.plan import layers
from edgenas.space.space import Space

_AVERAGED = 512  # networks, for their mean footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One thing to time: a layer, or a whole network.

    Args:
        name: different for each unit; the journal uses it too.
        of: the layer or the network.
        build: returns its ONNX graph, the same bytes each time.
        copies: of the layer in the graph, see ``copies_graph``; 0: the layer or network alone.
        evict: bytes of other memory that are read before each run, see ``footprint``.
    """

    name: str
    of: Layer | Arch
    build: Callable[[], bytes]
    copies: int = 0
    evict: int = 0

    @property
    def words(self) -> str:
        """What it is, for people who watch; the name is for files."""
        if isinstance(self.of, Arch):
            return f"a network of {self.of.resolution} pixels"
        return f"a layer ({self.of.kind}) of {pixels(self.of.in_size)} pixels"


def units_of(
    space: Space,
    archs: Iterable[Arch] = (),
    *,
    batch: int,
    method: Method,
    form: Form = "fp32",
) -> dict[str, Unit]:
    """The units of a profile by name: the distinct layers of a space, and networks of it.

    Args:
        space: the space.
        archs: the networks.
        batch: images a run.
        method: how layers are timed.
        form: of the graphs.
    """
    units = [
        layer_unit(space, layer, copies=n, batch=batch, form=form)
        for layer in layers(space)
        for n in ((0, *COPIES[method]) if method == "copies" else COPIES[method])
    ]
    units += [network_unit(space, arch, batch=batch, form=form) for arch in archs]
    return {unit.name: unit for unit in units}


def digest(graph: bytes) -> str:
    """The SHA-256 of a graph, in hex."""
    return hashlib.sha256(graph).hexdigest()


@functools.lru_cache(maxsize=64)
def footprint(space: Space, *, batch: int) -> int:
    """The bytes that an average network of a space goes through in one run, and so takes in caches.

    These are all weights and the largest set of live activations, in fp32, averaged over random
    networks. The result is in whole MB, and at least one.
    """
    rows = space.sample(_AVERAGED, rng=np.random.default_rng(0), by="gene")
    weights, peak = (table(space)(rows).mean() for table in (weights_table, peak_table))
    return max(round(4 * (weights + batch * peak) / 2**20), 1) << 20


def layer_unit(space: Space, layer: Layer, *, copies: int, batch: int, form: Form = "fp32") -> Unit:
    """The unit of a layer: the layer alone in some form, or a number of copies of it in fp32."""
    if copies:
        assert form == "fp32", "copies are made in fp32"
        evict = footprint(space, batch=batch)
        return Unit(
            name=f"{layer} x{copies} behind {evict >> 20} MB",
            of=layer,
            build=lambda: copies_graph(layer, copies, batch=batch),
            copies=copies,
            evict=evict,
        )

    def build() -> bytes:
        return convert_layer_to_form(
            layer_graph(layer, batch=batch),
            form=form,
            first=layer.inputs == space.inputs,
            last=layer.kind == "head",
            keep=space.kept_in_float,
        )

    return Unit(name=str(layer), of=layer, build=build)


def network_unit(space: Space, arch: Arch, *, batch: int, form: Form = "fp32") -> Unit:
    """The unit of a whole network, in some form."""
    return Unit(
        name=f"{space.filed_as}/{space.classes} {arch}",
        of=arch,
        build=lambda: convert_to_form(
            network_graph(space, arch, batch=batch), form=form, keep=space.kept_in_float
        ),
    )
