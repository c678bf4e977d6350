"""The released accuracy predictors."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgenas.accuracy.mlp import Mlp
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.errors import EdgenasError
from edgenas.model.ofa_weights import released_tensors
from edgenas.space.genes import layout
from edgenas.space.presets import ofa_mbv3_w12, ofa_resnet50
from edgenas.space.space import Space


def import_accuracy(path: Path, *, space: Space) -> AccuracyPredictor:
    """A released accuracy predictor, for rows of a space; it needs no torch from then on.

    The MobileNetV3 one has 128 inputs: kernels and expand ratios of 20 blocks, then resolutions of
    112, 128, ... 224. The ResNet50 one has 82: resolutions, the stem layer, widths, expand ratios.
    The released ResNet50 counts two stems of 24 channels, which are the same network; this
    predictor gives what the release says of the first.

    Args:
        path: ``acc_predictor.pth`` or ``resnet50_acc_predictor.pth`` as published.
        space: ``ofa-mbv3-w1.2`` or ``ofa-resnet50``, the spaces they were fitted to, or a narrower
            one.

    Raises:
        EdgenasError: the file is no such predictor, or is of another space.
    """
    tensors = {key: value.float().numpy() for key, value in released_tensors(path).items()}
    weights = [value for key, value in tensors.items() if key.endswith("weight")]
    biases = [value for key, value in tensors.items() if key.endswith("bias")]
    if not weights or any(weight.ndim != 2 for weight in weights):
        raise EdgenasError(f"{path} is no released accuracy predictor: its weights are no matrices")
    if len(biases) < len(weights):  # the last layer of the ResNet50 one has a constant instead
        biases.append(tensors.get("base_acc", np.zeros(1)))
    resnet = space.stages[-1].kind == "bottleneck"
    whole = ofa_resnet50() if resnet else ofa_mbv3_w12()
    inputs = _resnet_inputs(whole) if resnet else _mobile_inputs(whole)
    if weights[0].shape[1] != len(inputs):
        raise EdgenasError(
            f"{path} does not fit space {space.name}: it must have {len(inputs)} inputs, found "
            f"{weights[0].shape[1]}",
            hint="acc_predictor.pth: ofa-mbv3-w1.2; resnet50_acc_predictor.pth: ofa-resnet50",
        )
    predictor = AccuracyPredictor(
        space=whole,
        model=Mlp.make(
            columns=[-1 if column is None else column for column, _ in inputs],
            codes=[code for _, code in inputs],
            weights=[weight.T for weight in weights],
            biases=biases,
        ),
        source="published with once-for-all (arXiv 1908.09791): ImageNet, 10,000 held-out training "
        "images; optimistic for networks that a search chooses",
    )
    return predictor.on(space)


# An input of a released predictor: the column it looks at and the code at which it is 1; the
# column None and code 0 where no network of the space sets it.
_Input = tuple[int | None, int]


def _mobile_inputs(space: Space) -> list[_Input]:
    lay, blocks = layout(space), [(i, j) for i in range(2, 7) for j in range(4)]
    return [
        *((lay.kernels[place], code) for place in blocks for code in (1, 2, 3)),
        *((lay.expands[place], code) for place in blocks for code in (1, 2, 3)),
        *_values(lay.resolution, space.resolutions, range(112, 225, 16)),
    ]


def _resnet_inputs(space: Space) -> list[_Input]:
    lay = layout(space)
    blocks = [(i, j) for i in range(2, 6) for j in range(max(space.stages[i].depths))]
    return [
        *_values(lay.resolution, space.resolutions, space.resolutions),
        *((lay.depths[0], code) for code in (1, 2)),
        *((lay.widths[0], 1), (None, 0), (lay.widths[0], 2)),
        *((lay.widths[i], code) for i in range(1, 6) for code in (1, 2, 3)),
        *((lay.expands[place], code) for place in blocks for code in (1, 2, 3)),
    ]


def _values(column: int | None, values: tuple[int, ...], known: Iterable[int]) -> Iterable[_Input]:
    return ((column, 1 + values.index(v)) if v in values else (None, 0) for v in known)
