"""What others call the tensors of networks that edgenas can hold too.

A naming gives the name of a tensor in a file for its key in ``Supernet(space).state_dict()``, e.g.
``stages.2.0.expand.conv.weight``.
"""

from collections.abc import Callable, Mapping

from edgenas.space.space import Space

Naming = Callable[[Space, str], str]


def name_as_efficientnet_pytorch(space: Space, key: str) -> str:
    """The name in EfficientNet-PyTorch and its Lite variant: ``_blocks.3._expand_conv.weight``."""
    stage, block, part, tail = _take_apart(space, key)
    if stage == len(space.stages):
        return {"final.conv": "_conv_head", "final.bn": "_bn1", "classifier": "_fc"}[part] + tail
    if stage == 0:
        return {"unit.conv": "_conv_stem", "unit.bn": "_bn0"}[part] + tail
    number = sum(max(s.depths) for s in space.stages[1:stage]) + block
    return f"_blocks.{number}.{_BLOCK[part]}{tail}"


_BLOCK: Mapping[str, str] = {
    "expand.conv": "_expand_conv",
    "expand.bn": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.bn": "_bn1",
    "project.conv": "_project_conv",
    "project.bn": "_bn2",
}


def _take_apart(space: Space, key: str) -> tuple[int, int, str, str]:
    """A key as stage, block, part and the rest with a dot; the head is the stage behind the last.

    ``stages.2.0.expand.conv.weight`` is 2, 0, ``expand.conv`` and ``.weight``.
    """
    rest, _, tail = key.rpartition(".")
    head, _, inside = rest.partition(".")
    if head == "head":
        return len(space.stages), 0, inside, f".{tail}"
    stage, block, part = inside.split(".", 2)
    return int(stage), int(block), part, f".{tail}"
