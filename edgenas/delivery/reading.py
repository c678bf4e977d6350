"""Images that a verb reads, and what a person should know of them."""

from edgenas.basics.progress import Progress, Say
from edgenas.images.copies import find_copies
from edgenas.images.data import Images
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Size
from edgenas.model.saved import TrainedSupernet
from edgenas.space.framing import Framing

_NAMED = 5  # files that were left out


def read_images(
    source: str,
    *,
    stored: Size,
    framing: Framing,
    labelled: bool = True,
    skip_bad_images: bool = False,
    progress: Progress,
    say: Say,
) -> Images:
    """The images of a source, see ``load_images``. Says which files were left out.

    Args:
        source: folder, archive, list of files, or name of a data set.
        stored: height and width that the images are kept at.
        framing: how they get that shape.
        labelled: whether folders are classes.
        skip_bad_images: whether images that cannot be read are left out.
        progress: called with (step, done, total, words).
        say: called with lines that a person should read.

    Raises:
        EdgenasError: as ``load_images``.
    """
    images = load_images(
        source,
        stored=stored,
        framing=framing,
        labelled=labelled,
        skip_bad_images=skip_bad_images,
        progress=lambda done, total: progress("reading images", done, total, ""),
    )
    if images.untaken:
        say(f"warning: {source}: {images.untaken}")
    if images.skipped:
        count, names = len(images.skipped), ", ".join(images.skipped[:_NAMED])
        more = ", ..." if count > _NAMED else ""
        share = f"{count} of {count + len(images)} images of {source} cannot be read"
        say(f"warning: {share} and are left out: {names}{more}")
    return images


def count_learnt_copies(
    trained: TrainedSupernet, images: Images, *, split: str, say: Say
) -> int | None:
    """How many images are copies of images that a supernet has learnt from. Says so.

    Args:
        trained: the supernet.
        images: those that accuracy is measured on.
        split: the name of their split.
        say: called with lines that a person should read.

    Returns:
        None where the supernet keeps no record of what it has learnt from.
    """
    if (learnt := trained.learnt) is None:
        return None
    copies = int(find_copies(images.pixels, learnt.sketches).sum())
    if copies:
        say(
            f"warning: {copies} of {len(images)} {split} images are copies of images that the "
            "supernet has learnt from; accuracy on them is too high"
        )
    if not learnt.whole:
        say(
            "note: the weights began from a supernet without a record of what it has learnt from; "
            f"copies of those images among the {split} images are not counted"
        )
    return copies
