"""The sizes of images on their way through a space."""

from typing import TYPE_CHECKING

from edgenas.space.layer import Size, divide_size

if TYPE_CHECKING:  # whose stages decide them
    from edgenas.space.space import Space


def size_before(space: "Space", i: int, resolution: int) -> Size:
    """Height and width of the input of a stage; of the head, behind the last one."""
    size = space.input_size(resolution)
    for stage in space.stages[:i]:
        size = divide_size(divide_size(size, stage.stride), stage.pool)
    return size


def columns_of(size: Size) -> int:
    """The field of a layer: its width, or 0 where that is its height."""
    return 0 if size[0] == size[1] else size[1]
