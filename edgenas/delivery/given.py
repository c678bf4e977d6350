"""A network that the user names is delivered as any other, only that nothing searches for it."""

from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.delivery.request import SpecializeRequest
from edgenas.model.saved import TrainedSupernet
from edgenas.space.arch import Arch, load_arch
from edgenas.space.genotype import arch_of_genotype

ORIGINAL, LARGEST, GENOTYPE = "original", "largest", "Genotype("


def find_given(request: SpecializeRequest, trained: TrainedSupernet) -> Arch | None:
    """The network that a request names; None: it is to be searched for.

    Raises:
        EdgenasError: the supernet was not imported, the file is no arch, the genotype is none, or
            the arch is of another space.
    """
    supernet, name = trained.supernet, request.arch
    if name is None:
        return None
    if name == LARGEST:
        return supernet.space.largest()
    if name == ORIGINAL:
        if supernet.original is None:
            raise EdgenasError(
                f"--arch {ORIGINAL} needs an imported supernet, found {request.supernet}",
                hint=f"use --supernet lite0, or --arch {LARGEST}",
            )
        return supernet.original
    if name.startswith(GENOTYPE):
        return arch_of_genotype(supernet.space, name)
    if not Path(name).is_file():
        raise EdgenasError(
            f"--arch must be {ORIGINAL}, {LARGEST} or an arch file, found {name!r}",
            hint="the manifest of a bundle holds one, under arch",
        )
    arch = load_arch(Path(name))
    supernet.space.check(arch)
    return arch


def keeps_statistics(request: SpecializeRequest, trained: TrainedSupernet) -> bool:
    """Whether a request names a network that needs no images for its batch norms."""
    arch, original = find_given(request, trained), trained.supernet.original
    return arch is not None and original is not None and arch.stages == original.stages
