"""Images that a verb reads, and what of them people should know."""

from typing import TYPE_CHECKING

from edgenas.cli.console import bar, note

if TYPE_CHECKING:
    from edgenas.images.data import Images, Size

_NAMED = 5  # files that were left out


def read_images(source: str, *, stored: "Size", skip_bad_images: bool = False) -> "Images":
    """The images of a source, see ``load_images``; says on stderr which files were not taken."""
    from edgenas.images.data import load_images

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
