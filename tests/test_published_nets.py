"""The traced operators of published networks against counts of others."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from tools.device_fits import published_nets


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v2", "googlenet"])
def test_macs_agree_with_torchs_own_counter(model: str):
    with torch.device("meta"):
        module = (
            torchvision.models.get_model(model, weights=None, init_weights=False).eval()
            if model == "googlenet"
            else torchvision.models.get_model(model, weights=None).eval()
        )
        image = torch.empty(1, 3, 96, 96)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image)
    operators = published_nets.operators(model, (96, 96))
    assert operators is not None
    assert 2 * sum(operator.macs for operator in operators) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "size", "millions"),
    [
        # TensorFlow's published counts of the same networks
        ("mobilenet_v1", 224, 569),
        ("mobilenet_v1_0.25", 128, 14),
        ("mobilenet_v2_1.4", 224, 582),
        ("mobilenet_v3_large", 224, 217),
        ("mobilenet_v3_large_0.75", 224, 155),
        ("mobilenet_v3_small_minimalistic", 224, 52),
        # half of the 6.5 billion FLOPs in its table of models
        ("yolo11n", 640, 3250),
    ],
)
def test_macs_of_networks_written_here(model: str, size: int, millions: int):
    operators = published_nets.operators(model, (size, size))
    assert operators is not None
    assert sum(operator.macs for operator in operators) / 1e6 == pytest.approx(
        millions, abs=0.7, rel=0.01
    )


def test_an_unknown_network_is_not_guessed():
    assert published_nets.operators("lenet", (28, 28)) is None


def test_batch_norms_are_folded_only_into_convs():
    operators = published_nets.operators("densenet121", (64, 64))
    assert operators is not None
    # Norms in front of convs stay: two a dense layer, one a transition, the last; the stem's and
    # those between two convs of a layer fold.
    assert sum(operator.op == "mul" for operator in operators) == 58 + 3 + 1
