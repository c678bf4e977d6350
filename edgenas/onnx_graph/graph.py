"""A graph with the shape of every tensor, and what of it runs at inference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.file import shown

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """The operators of a file that run at inference.

    Args:
        where: the file, as errors name it.
        nodes: in order of execution, without what works on constants and shapes alone. What a
            branch or a loop holds stands here as often as it runs, where that is known.
        shapes: of tensors, of constants too; what inference cannot tell is absent.
        constants: names of tensors that do not depend on the input.
        users: how many nodes read a tensor; an output of the graph counts as one.
        inputs: shapes of the inputs.
        batch: images of a run.
        whole: names of tensors of whole numbers or truth values.
    """

    where: str
    nodes: tuple[NodeProto, ...]
    shapes: Mapping[str, Shape]
    constants: frozenset[str]
    users: Mapping[str, int]
    inputs: Mapping[str, Shape]
    batch: int = 1
    whole: frozenset[str] = frozenset()

    def shape(self, name: str) -> Shape:
        """The shape of a tensor.

        Raises:
            EdgenasError: inference cannot tell it.
        """
        if name not in self.shapes:
            raise EdgenasError(
                f"{self.where}: the model does not tell the shape of {shown(name)}",
                hint="export it with fixed sizes, or simplify it with onnxsim first",
            )
        return self.shapes[name]

    def varying(self, node: NodeProto) -> list[str]:
        """The inputs of a node that depend on the input of the graph."""
        return [name for name in node.input if name and name not in self.constants]


def elements(shape: Shape) -> int:
    """How many elements a tensor of a shape has."""
    return math.prod(shape)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node, or what it is where the node does not have it."""
    for one in node.attribute:
        if one.name == name:
            return helper.get_attribute_value(one)
    return default
