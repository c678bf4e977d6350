"""The rules of spaces, beside those of their stages."""

from dataclasses import replace
from typing import TYPE_CHECKING

from edgenas.basics.errors import EdgenasError
from edgenas.space.cells import check_cell_space
from edgenas.space.layer import PADDINGS
from edgenas.space.stage import (
    ACTIVATIONS,
    StageSpace,
    at_least,
    check_inputs,
)
from edgenas.space.stage_check import check_stage
from edgenas.space.wiring import cell_place

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
        if stage.kind == "cell":
            _check_cells(space, i)


def _check_cells(space: "Space", i: int) -> None:
    """Refuse a stage of cells that has choices of its own, or that cannot stand where it does."""
    stage, path = space.stages[i], f"stages[{i}]"
    plain = StageSpace(kind="cell", widths=stage.widths, depths=stage.depths, cell=stage.cell)
    darts = space.cells[stage.cell].family == "darts"
    plain = replace(plain, stride=stage.stride) if darts else plain
    if stage != plain or len(stage.widths) + len(stage.depths) > 2:
        raise EdgenasError(f"{path} must have one width, one depth and the cell alone, in a cell")
    before = space.stages[i - 1].widths if i else (space.inputs,)
    if not darts and before != stage.widths:
        raise EdgenasError(
            f"{path}.widths must be those of its input in a cell, {before}, found {stage.widths}"
        )
    if darts:
        _check_darts(space, i)


def _check_darts(space: "Space", i: int) -> None:
    """Refuse cells of DARTS that the two blocks before do not lead to."""
    stage, path = space.stages[i], f"stages[{i}]"
    parts = 2 * space.cells[stage.cell].nodes  # each node has two halves, see `factorised`
    if stage.widths[0] % parts:
        raise EdgenasError(
            f"{path}.widths must be a multiple of {parts} in a cell of DARTS, "
            f"found {stage.widths[0]}"
        )
    if stage.stride > 2:
        raise EdgenasError(f"{path}.stride must be 1 or 2 in a cell of DARTS, found {stage.stride}")
    for k, other in enumerate(space.stages[:i]):
        choices = (other.widths, other.depths, other.options)
        kind = other.kind == "conv" or space.cells[other.cell].family == "darts"
        plain = max(map(len, choices)) == 1 and other.pool == 1
        if not plain or other.kind not in ("conv", "cell") or not kind:
            raise EdgenasError(
                f"stages[{k}] must be a conv or a cell of DARTS without choices, and without pool, "
                f"before the cells of DARTS in {path}"
            )
    if i == 0:
        raise EdgenasError("stages[0] must not be a cell of DARTS, which takes the blocks before")
    for resolution in space.resolutions:
        for j in range(stage.depths[0]):
            place = cell_place(space, i, j, resolution)
            for _, size in place.takes:
                if size not in (place.size, (2 * place.size[0], 2 * place.size[1])):
                    raise EdgenasError(
                        f"{path} must take images of the size of its cells, or of twice that, in "
                        f"a cell of DARTS, found {size[0]}x{size[1]} for {place.size[0]}x"
                        f"{place.size[1]} at the resolution {resolution}"
                    )
            if place.stride == 2 and (place.size[0] % 2 or place.size[1] % 2):
                raise EdgenasError(
                    f"resolutions must give even sizes where a cell of DARTS reduces, "
                    f"found {place.size[0]}x{place.size[1]} before {path} at {resolution}"
                )
