"""The rules of spaces, beside those of their stages."""

from typing import TYPE_CHECKING

from edgenas.basics.errors import EdgenasError
from edgenas.space.cells import check_cell_space
from edgenas.space.layer import PADDINGS
from edgenas.space.stage import ACTIVATIONS, at_least, check_inputs, check_stage

if TYPE_CHECKING:  # whose values are checked here
    from edgenas.space.space import Space

# The first conv, the convs of squeeze-and-excitation, the depthwise ones, the classifier.
PARTS = ("first", "squeeze", "depthwise", "classifier")

_SYMMETRIC = {"bottleneck", "basic", "cell"}  # kinds that know no other padding


def check_space(space: "Space") -> None:
    """Refuse a space that breaks a rule.

    Raises:
        EdgenasError: names the path and the rule.
    """
    check_inputs(space.resolutions, space.aspect)
    if not space.stages:
        raise EdgenasError("stages must not be empty")
    for path, value, least in (
        ("classes", space.classes, 2),
        ("inputs", space.inputs, 1),
        ("final", space.final, 0),
        ("mix", space.mix, 0),
    ):
        if not at_least(least)(value):
            raise EdgenasError(f"{path} must be an integer >= {least}, found {value}")
    if space.activation not in ACTIVATIONS:
        raise EdgenasError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, found {space.activation!r}"
        )
    if space.kernel_transform not in ("linear", "crop"):
        raise EdgenasError(
            f"kernel_transform must be linear or crop, found {space.kernel_transform!r}"
        )
    if space.padding not in PADDINGS:
        raise EdgenasError(f"padding must be one of {', '.join(PADDINGS)}, found {space.padding!r}")
    for i, stage in enumerate(space.stages):
        if space.padding == "same" and ({*stage.kinds} & _SYMMETRIC or stage.pool > 1):
            raise EdgenasError(
                f"padding must be symmetric where there are bottlenecks or pools: stages[{i}]"
            )
    for name in ("mix_bias", "mix_norm"):
        if getattr(space, name) and not space.mix:
            raise EdgenasError(f"{name} must be false where there is no mix, found true")
    if space.mix_bias and space.mix_norm:
        raise EdgenasError("mix_bias must be false where mix_norm is true")
    for part in space.kept_in_float:
        if part not in PARTS:
            raise EdgenasError(f"kept_in_float must be of {', '.join(PARTS)}, found {part!r}")
    if (space.mean is None) != (space.std is None):
        raise EdgenasError("mean and std must be given together")
    if not 0 < space.epsilon < 1:
        raise EdgenasError(f"epsilon must be between 0 and 1, found {space.epsilon}")
    for i, cell in enumerate(space.cells):
        check_cell_space(cell, f"cells[{i}]")
    used = {stage.cell for stage in space.stages if stage.kind == "cell"}
    if used != {*range(len(space.cells))}:
        raise EdgenasError(
            f"cells must be those that stages use, {sorted(used)}, found {len(space.cells)}"
        )
    for i, stage in enumerate(space.stages):
        check_stage(stage, f"stages[{i}]", space.stages[i - 1].widths if i else (space.inputs,))
