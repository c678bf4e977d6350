"""Images that a verb reads, and what of them people should know."""

from typing import TYPE_CHECKING

from edgenas.cli.console import bar, note

if TYPE_CHECKING:
    from edgenas.images.data import Images
    from edgenas.images.preprocessing import Size
    from edgenas.model.saved import TrainedSupernet

_NAMED = 5  # files that were left out


def read_images(source: str, *, stored: "Size", skip_bad_images: bool = False) -> "Images":
    """The images of a source, see ``load_images``; says on stderr which files were not taken."""
    from edgenas.images.loading import load_images

    with bar("reading images") as tell:
        images = load_images(
            source,
            stored=stored,
            skip_bad_images=skip_bad_images,
            progress=lambda done, total: tell(done, total),
        )
    if images.untaken:
        note(f"warning: {source}: {images.untaken}")
    if images.skipped:
        count, named = len(images.skipped), ", ".join(images.skipped[:_NAMED])
        more = ", ..." if count > _NAMED else ""
        found = f"{count} of {count + len(images)} images of {source} cannot be read"
        note(f"warning: {found} and are left out: {named}{more}")
    return images


def learnt_copies(trained: "TrainedSupernet", images: "Images", *, split: str) -> int | None:
    """How many images are copies of such as a supernet has learnt from; says so on stderr.

    Args:
        trained: the supernet.
        images: those to judge on.
        split: what they are for.

    Returns:
        None: the supernet keeps no record of what it has learnt from.
    """
    from edgenas.images.copies import find_copies

    if (learnt := trained.learnt) is None:
        return None
    copies = int(find_copies(images.pixels, learnt.sketches).sum())
    if copies:
        note(
            f"warning: {copies} of {len(images)} {split} images are copies of images that the "
            "supernet has learnt from; accuracy on them is too high"
        )
    if not learnt.whole:
        note(
            "note: the weights began from a supernet without a record of what it has learnt from; "
            f"copies of those images among the {split} images are not counted"
        )
    return copies
