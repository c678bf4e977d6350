"""The weights that a run starts from: a supernet as it is, or a published network."""

from dataclasses import replace
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.delivery.request import OF_CIFAR10, SUPERNET, SpecializeRequest
from edgenas.delivery.shared import SharedInputs
from edgenas.images.sources import list_images


def choose_start(request: SpecializeRequest, inputs: SharedInputs) -> SpecializeRequest:
    """The request with trained weights to start from, where the supernet has other classes.

    Args:
        request: what is asked for.
        inputs: what was read already.

    Raises:
        EdgenasError: an option is about how published weights learn images, and none do.
    """
    request = _find_start(request, inputs)
    if request.balance is not None and not request.transfers:
        raise EdgenasError(
            "--balance needs --data and --time: it says how published weights learn your images",
            hint="give --data PATH --time 45min, or leave out --balance",
        )
    return request


def _find_start(request: SpecializeRequest, inputs: SharedInputs) -> SpecializeRequest:
    if request.transfers:
        return replace(request, init=request.start)
    data = request.data or request.test or ""
    if request.supernet == SUPERNET and data.startswith("cifar10"):
        return replace(request, supernet=OF_CIFAR10)
    if request.data is None or request.supernet != SUPERNET:
        return request
    classes = {name for name, *_ in list_images(Path(request.data)).entries}
    if tuple(sorted(classes)) == inputs.supernet(request.supernet).classes:
        return request
    return replace(request, init=request.start)
