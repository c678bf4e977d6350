"""What others call the tensors of networks that edgenas can hold too.

A naming gives the name that a file has for a key of ``Network(space, original).state_dict()``, e.g.
``stages.2.0.expand.conv.weight``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgenas.space.backbones import Published
from edgenas.space.layer import Layer
from edgenas.space.plan import plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a tensor belongs in a published network.

    Args:
        part: of the layer, e.g. ``expand.conv``.
        layer: the layer; that of the head, or of the stem, which is the one of kind ``conv``.
        number: of the block among all blocks.
        stage: the number of its stage in the published network, where blocks of one width in a row
            are a stage; behind the last one for the head.
        block: its number in that stage.
        mixes: whether the head has a conv behind the pooling.
    """

    part: str
    layer: Layer
    number: int
    stage: int
    block: int
    mixes: bool


Naming = Callable[[Position], str]


def positions(published: Published) -> dict[str, Position]:
    """The positions of all layers of a published network by their names, without the parts."""
    found: dict[str, Position] = {}
    number, stage, block, width = -1, -1, 0, 0
    for name, layer in plan(published.space, published.original):
        if layer.kind == "mbconv":
            number += 1
            stage, block = (stage, block + 1) if layer.outputs == width else (stage + 1, 0)
            width = layer.outputs
        found[name] = Position(
            part="",
            layer=layer,
            number=number,
            stage=stage + (layer.kind == "head"),
            block=block,
            mixes=published.space.mix > 0,
        )
    return found


def name_as_efficientnet_pytorch(position: Position) -> str:
    """The name in EfficientNet-PyTorch and its Lite variant: ``_blocks.3._expand_conv``."""
    if position.layer.kind == "conv":
        return {"unit.conv": "_conv_stem", "unit.bn": "_bn0"}[position.part]
    if position.layer.kind == "head":
        names = {"final.conv": "_conv_head", "final.bn": "_bn1", "classifier": "_fc"}
        return names.get(position.part, "")
    return f"_blocks.{position.number}.{_EFFICIENTNET_PYTORCH[position.part]}"


def name_as_timm(position: Position) -> str:
    """The name in timm: ``blocks.2.0.conv_pw``."""
    if position.layer.kind == "conv":
        return {"unit.conv": "conv_stem", "unit.bn": "bn1"}[position.part]
    if position.layer.kind == "head":
        last = f"blocks.{position.stage}.0."  # MobileNetV3 has its final conv among the blocks
        final = (f"{last}conv", f"{last}bn1") if position.mixes else ("conv_head", "bn2")
        names = {"final.conv": final[0], "final.bn": final[1], "mix": "conv_head"}
        return names.get(position.part, position.part)
    expands = position.layer.mid != position.layer.inputs
    names = _TIMM if expands else _TIMM_WITHOUT_EXPAND
    return f"blocks.{position.stage}.{position.block}.{names[position.part]}"


def name_as_mobilenet_v2(position: Position) -> str:
    """The name in torchvision's MobileNetV2: ``features.3.conv.0.0``."""
    if position.layer.kind == "mbconv":
        at = int(position.layer.mid != position.layer.inputs)
        names = {
            "expand.conv": "0.0",
            "expand.bn": "0.1",
            "depthwise.conv": f"{at}.0",
            "depthwise.bn": f"{at}.1",
            "project.conv": f"{at + 1}",
            "project.bn": f"{at + 2}",
        }
        return f"features.{position.number + 1}.conv.{names[position.part]}"
    return _name_ends(position, last=position.number + 2)


def name_as_mobilenet_v3(position: Position) -> str:
    """The name in torchvision's MobileNetV3: ``features.3.block.0.0``."""
    if position.layer.kind == "mbconv":
        return f"features.{position.number + 1}.block.{_name_in_sequence(position)}"
    return _name_ends(position, last=position.number + 2)


def name_as_efficientnet(position: Position) -> str:
    """The name in torchvision's EfficientNet: ``features.2.0.block.0.0``."""
    if position.layer.kind == "mbconv":
        return f"features.{position.stage + 1}.{position.block}.block.{_name_in_sequence(position)}"
    return _name_ends(position, last=position.stage + 1)


def name_as_mnasnet(position: Position) -> str:
    """The name in torchvision's MNASNet: ``layers.8.0.layers.0``."""
    if position.layer.kind == "conv":
        return {"unit.conv": "layers.0", "unit.bn": "layers.1"}[position.part]
    if position.layer.kind == "head":
        names = {"final.conv": "layers.14", "final.bn": "layers.15", "classifier": "classifier.1"}
        return names.get(position.part, "")
    at = _MNASNET[position.part]
    if position.stage == 0:  # its parts stand in the outer list
        return f"layers.{at}"
    return f"layers.{position.stage + 7}.{position.block}.layers.{at}"


def _name_in_sequence(position: Position) -> str:
    """The name of a part in a block of torchvision that is a sequence of those that are there."""
    layer = position.layer
    there = [layer.mid != layer.inputs, True, layer.squeeze > 0, True]
    kinds = ("expand", "depthwise", "squeeze", "project")
    kind, _, part = position.part.partition(".")
    at = sum(there[: kinds.index(kind)])
    inside = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}[part]
    return f"{at}.{inside}"


def _name_ends(position: Position, *, last: int) -> str:
    """The name of a part of the stem or the head in torchvision; ``last`` is the final conv."""
    classifier = "classifier.3" if position.mixes else "classifier.1"
    names = {
        "unit.conv": "features.0.0",
        "unit.bn": "features.0.1",
        "final.conv": f"features.{last}.0",
        "final.bn": f"features.{last}.1",
        "mix": "classifier.0",
        "classifier": classifier,
    }
    return names[position.part]


_EFFICIENTNET_PYTORCH: Mapping[str, str] = {
    "expand.conv": "_expand_conv",
    "expand.bn": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.bn": "_bn1",
    "squeeze.reduce": "_se_reduce",
    "squeeze.expand": "_se_expand",
    "project.conv": "_project_conv",
    "project.bn": "_bn2",
}
_TIMM: Mapping[str, str] = {
    "expand.conv": "conv_pw",
    "expand.bn": "bn1",
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn2",
    "squeeze.reduce": "se.conv_reduce",
    "squeeze.expand": "se.conv_expand",
    "project.conv": "conv_pwl",
    "project.bn": "bn3",
}
_TIMM_WITHOUT_EXPAND: Mapping[str, str] = _TIMM | {
    "depthwise.bn": "bn1",
    "project.conv": "conv_pw",
    "project.bn": "bn2",
}
_MNASNET: Mapping[str, int] = {
    "expand.conv": 0,
    "expand.bn": 1,
    "depthwise.conv": 3,
    "depthwise.bn": 4,
    "project.conv": 6,
    "project.bn": 7,
}
