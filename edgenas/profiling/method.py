"""How the layers of a space are timed: alone, as copies, or not at all.

``alone``: each layer as a graph of its own. ``copies``: what four copies side by side take longer
than one, divided by three; see ``edgenas.onnx_graph.build.copies_graph``. Copies are right where a
runtime keeps activations in a layout of its own, because a graph of one layer has to convert to it
and back; docs/results/latency.md has the comparison. Copies that run again and again would find
their weights in caches, which a network has used for other things since its last run. So as much
memory as a network goes through is read before each run of them. That makes their times right on
average and uncertain one by one. So a profile times the layers alone as well, see
`edgenas.latency.sums`. ``networks``: no layer is timed. Then there are more whole networks, and
layer costs are learned from them, see `edgenas.latency.learned`. ``slopes``: where an engine is
built of each graph, copies stand in a row, see `edgenas.profiling.slopes`; both ways compete then.
"""

import re
from collections.abc import Mapping

from edgenas.basics.errors import EdgenasError
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import Method
from edgenas.runtime.registry import form_of
from edgenas.space.space import Space

FEWER, MORE = 1, 4
# How many copies of a layer are timed, 0: the layer alone.
COPIES: Mapping[Method, tuple[int, ...]] = {
    "alone": (0,),
    "copies": (FEWER, MORE),
    "networks": (),
    "slopes": (),  # see `edgenas.profiling.slopes`
}

# The texts below stand in tables on disk: a changed text makes them unreadable.
_WORDS: Mapping[Method, str] = {
    "alone": "each layer alone as one fused ONNX graph, and whole networks alike",
    "copies": f"each layer as (T({MORE}) - T({FEWER})) / {MORE - FEWER} where T(n) is the time of "
    "n copies of it side by side in one ONNX graph, as many readers behind them whatever n is, each"
    " run coming after other memory of the size of a network was read; and each layer alone, and "
    "whole networks",
    "networks": "whole networks, from which layer costs are learned",
    "slopes": "each layer as (T(5) - T(1)) / 4 where T(n) is the time of n of it in a row, or "
    "where its shape changes, as what it adds between two 1x1 convs of which that is known; and "
    "whole networks",
}
_ALIKE = (
    "; random weights, several visits, medians of runs at the machine's full speed, told by a "
    "canary, median of these; operators one after the other, all graph optimisations; runs {}"
)
_BUILT = (
    "; random weights, each graph an engine that trtexec builds on the device, medians of its runs "
    "on the GPU as CUDA graphs, after a warm-up, from GPU memory to GPU memory"
)
_AS_USERS, _ON_GPU = "called as users call them", "from GPU memory to GPU memory"
_IN_FLOAT = "; kept in float: "


def choose_method(target: Target) -> Method:
    """The method that is best for a target as far as measured, see docs/concepts/measuring.md.

    Copies are made of fp32 graphs, so layers in other forms are timed alone.
    """
    method = runtimes.get(target.runtime).method
    fp32 = form_of(target.runtime, target.precision) == "fp32"
    return "alone" if method == "copies" and not fp32 else method


def describe_method(method: Method, *, space: Space, target: Target) -> str:
    """How layers and networks are timed on a target, in the words of tables."""
    runtime = runtimes.get(target.runtime)
    alike = _ALIKE.format(_ON_GPU if runtime.on_gpu else _AS_USERS)
    words = _WORDS[method] + (_BUILT if runtime.built_by_tool else alike)
    parts = space.kept_in_float if target.precision == "int8" else ()
    return words + (_IN_FLOAT + ", ".join(parts) if parts else "")


def parts_in_float(table: LatencyTable) -> str:
    """The parts that were in float when a table was measured in int8; empty where none were."""
    return table.method.partition(_IN_FLOAT)[2]


def unify_words(method: str) -> str:
    """The method of a table in the words of today; one word was another in former versions."""
    return re.sub(r"(as one fused ONNX graph, and whole networks) \w+;", r"\1 alike;", method)


def read_method(table: LatencyTable) -> Method:
    """The method by which the layers of a measured table were timed.

    Raises:
        EdgenasError: the words of the table are those of no method.
    """
    words = unify_words(table.method).partition(_IN_FLOAT)[0]
    for method, how in _WORDS.items():
        if words.startswith((how + _ALIKE.partition("{")[0], how + _BUILT)):
            return method
    raise EdgenasError(
        f"the table of {table.target} was made by a method that this edgenas does not know: "
        f"{table.method!r}",
        hint="profile the target again",
    )
