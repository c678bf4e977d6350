"""All networks of a space in one set of weights.

``supernet(x, arch)`` runs the plain modules of ``network.py`` on slices of the largest weights:
the first channels of every conv, the transformed centre of every elastic kernel. The arch is an
argument; nothing is remembered between calls.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from edgenas.basics.errors import EdgenasError
from edgenas.model.network import Network, build, initialise, place_of
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.plan import PlannedLayer, Slot, follow, plan, slots, walk
from edgenas.space.space import Space

# The convs whose kernels are elastic, by layer kind: the weight, and the field of its size.
_ELASTIC: Mapping[str, Mapping[str, str]] = {
    "conv": {"unit.conv.weight": "kernel"},
    "mbconv": {"depthwise.conv.weight": "kernel"},
    "fused": {"expand.conv.weight": "kernel"},
    "uib": {"start.conv.weight": "start", "depthwise.conv.weight": "kernel"},
    "rep": {"main.conv.weight": "kernel"},
}


class Supernet(nn.Module):
    """The largest weights of a space.

    In training mode batch norms use the statistics of the batch and leave the stored ones alone:
    those belong to a network, and are set by calibrating the extracted one.

    Args:
        space: the space.
        seed: of the initial weights.

    ``original`` is the published network that weights and statistics come from; None where there is
    none. At every resolution its statistics are those that are stored.
    """

    def __init__(self, space: Space, *, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.original: Arch | None = None
        self._sizes = {slot.name: _kernel_sizes(slot) for slot in slots(space)}
        places = {slot.name: _largest(space, slot) for slot in slots(space)}
        stages: list[nn.ModuleList] = []
        for i, stage in enumerate(space.stages):
            names = [f"stages.{i}.{j}" for j in range(max(stage.depths))]
            stages.append(nn.ModuleList(place_of(places, name) for name in names))
        self.stages = nn.ModuleList(stages)
        self.head = places["head"]
        initialise(self, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Logits of one network.

        Args:
            x: images, shape (n, inputs, height, width) with the arch's resolution as height.
            arch: the network.

        Returns:
            Logits, shape (n, classes).

        Raises:
            EdgenasError: the arch is not in the space or the images have another size.
        """
        self.space.check(arch)
        size = self.space.input_size(arch.resolution)
        if tuple(x.shape[2:]) != size:
            raise EdgenasError(
                f"images must be {size[0]}x{size[1]} pixels for this arch, "
                f"found {'x'.join(map(str, x.shape[2:]))}"
            )
        return follow(walk(self.space, arch), x, self._run)

    def _run(self, step: PlannedLayer, *inputs: Tensor) -> Tensor:
        module = _template(step.layer, self.space.epsilon, self.training)
        return functional_call(module, self.slice(step.name, step.layer), inputs)

    def slice(self, name: str, layer: Layer) -> dict[str, Tensor]:
        """The tensors of one layer: views of the largest ones wherever possible.

        Args:
            name: as in ``plan``.
            layer: the layer to fill that place.
        """
        block = self.get_submodule(name)
        if isinstance(block, nn.ModuleDict):  # layers of several kinds can stand here
            block = block[_family(layer)]
        largest = dict(block.named_parameters())
        if not self.training:
            largest |= dict(block.named_buffers())
        tensors: dict[str, Tensor] = {}
        for key, shape in _shapes(layer, self.space.epsilon, self.training).items():
            tensor = largest[key]
            field = _ELASTIC.get(layer.kind, {}).get(key)
            if field and shape[-1] < tensor.shape[-1]:
                sizes = [k for k in self._sizes[name][layer.kind, field] if k >= shape[-1]]
                tensor = self._kernel(block, tensor[: shape[0], : shape[1]], sizes, field)
            tensors[key] = tensor[tuple(map(slice, shape))]
        return tensors

    def _kernel(self, block: nn.Module, weight: Tensor, sizes: list[int], field: str) -> Tensor:
        """Each smaller kernel is the centre of the next larger one, times a matrix of all channels.

        Once-for-all, arXiv 1908.09791, section 3.3.
        """
        for large, small in itertools.pairwise(sizes):
            margin = (large - small) // 2
            weight = weight[:, :, margin : margin + small, margin : margin + small]
            if self.space.kernel_transform == "linear":
                matrix = block.get_parameter(_matrix_name(field, large, small))
                flat = F.linear(weight.reshape(*weight.shape[:2], small * small), matrix)
                weight = flat.view(*weight.shape[:2], small, small)
        return weight

    def extract(self, arch: Arch) -> Network:
        """A plain network with copies of the weights of an arch, in the mode of the supernet.

        Raises:
            EdgenasError: the arch is not in the space.
        """
        self.space.check(arch)
        with torch.device("meta"):
            network = Network(self.space, arch)
        tensors = {
            f"{name}.{key}": tensor.detach().clone()
            for name, layer in plan(self.space, arch)
            for key, tensor in self.slice(name, layer).items()
        }
        parameter = next(self.parameters())
        for name, buffer in network.named_buffers():
            # In training mode the slices carry no statistics: the network starts with fresh ones.
            # The buffer is on the meta device, where full_like would load sympy.
            value, device = int(name.endswith("running_var")), parameter.device
            fresh = torch.full(buffer.shape, value, dtype=buffer.dtype, device=device)
            tensors.setdefault(
                name, fresh.to(parameter.dtype) if fresh.is_floating_point() else fresh
            )
        network.load_state_dict(tensors, assign=True)
        network.train(self.training)
        original = self.original
        network.keeps_statistics = (
            not self.training and original is not None and arch.stages == original.stages
        )
        return network


def _largest(space: Space, slot: Slot) -> nn.Module:
    """The largest weights of a place; where layers of several kinds can stand, of each kind."""
    layers = [layer for layer in slot.layers.values() if layer is not None]
    families = dict.fromkeys(map(_family, layers))
    blocks = {f: _largest_block(space, [x for x in layers if _family(x) == f]) for f in families}
    if len(blocks) > 1:
        return nn.ModuleDict(blocks)
    return next(iter(blocks.values()), nn.Identity())


def _family(layer: Layer) -> str:
    """The layers of one family at one place share their weights."""
    of_kernel = ("preconv", "sepconv", "dilconv")
    return f"{layer.kind}{layer.kernel}" if layer.kind in of_kernel else layer.kind


def _largest_block(space: Space, layers: Sequence[Layer]) -> nn.Module:
    layer = replace(
        layers[0],
        inputs=max(x.inputs for x in layers),
        outputs=max(x.outputs for x in layers),
        mid=max(x.mid for x in layers),
        kernel=max(x.kernel for x in layers),
        squeeze=max(x.squeeze for x in layers),
        start=max(x.start for x in layers),
        residual=any(x.residual for x in layers),
    )
    block = build(layer, epsilon=space.epsilon)
    for field in _ELASTIC.get(layer.kind, {}).values():
        if space.kernel_transform != "linear":
            continue
        for large, small in itertools.pairwise(_sizes_of(layers, field)):
            # On the meta device, eye would load torch's compiler, which takes seconds.
            identity = torch.eye(small * small, device="cpu").to(torch.get_default_device())
            block.register_parameter(_matrix_name(field, large, small), nn.Parameter(identity))
    return block


def _kernel_sizes(slot: Slot) -> dict[tuple[str, str], list[int]]:
    """The kernel sizes of each elastic conv of a place, by layer kind and field."""
    layers = [layer for layer in slot.layers.values() if layer is not None]
    return {
        (kind, field): _sizes_of([x for x in layers if x.kind == kind], field)
        for kind, convs in _ELASTIC.items()
        for field in convs.values()
    }


def _sizes_of(layers: Iterable[Layer], field: str) -> list[int]:
    """The kernel sizes that a field has in some layers, the largest first."""
    return sorted({getattr(layer, field) for layer in layers} - {0}, reverse=True)


def _matrix_name(field: str, large: int, small: int) -> str:
    """The parameter that makes a small kernel out of a large one."""
    return f"kernel_{'' if field == 'kernel' else f'{field}_'}{large}to{small}"


@functools.lru_cache(maxsize=16384)
def _template(layer: Layer, epsilon: float, training: bool) -> nn.Module:
    """A module without storage that says how a layer computes; its tensors come from outside."""
    with torch.device("meta"):
        module = build(layer, epsilon=epsilon).train(training)
    if training:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.track_running_stats = False
                part.running_mean = part.running_var = part.num_batches_tracked = None
    return module


@functools.lru_cache(maxsize=16384)
def _shapes(layer: Layer, epsilon: float, training: bool) -> dict[str, torch.Size]:
    module = _template(layer, epsilon, training)
    return {key: tensor.shape for key, tensor in module.state_dict().items()}
