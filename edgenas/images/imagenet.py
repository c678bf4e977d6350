"""The classes of ImageNet (ILSVRC 2012), in the order of the outputs of published networks."""

from pathlib import Path

from edgenas.basics.files import read_text


def read_class_names() -> tuple[str, ...]:
    """The names of the 1,000 classes. The file says where they are from."""
    lines = read_text(Path(__file__).with_name("imagenet_classes.txt")).splitlines()
    return tuple(line for line in lines if not line.startswith("#"))
