"""Networks of other people: the primitives of any ONNX graph, by shape inference alone."""

from edgenas.foreign.network import ForeignNetwork, read_network

__all__ = ["ForeignNetwork", "read_network"]
