"""Proxies give what their papers say, by hand on small networks, and touch nothing."""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toys import toy_images

from edgenas import cli
from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network
from edgenas.model.saved import ACCURACY_FILE
from edgenas.space.cost import macs_table, total
from edgenas.space.presets import PRESETS
from edgenas.space.presets import tiny as tiny_space
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.proxies.agreement import (
    count_tables,
    draw_measured_networks,
    measure_agreement,
)
from edgenas.strategies.proxies.batch import ProxyBatch, draw_batch
from edgenas.strategies.proxies.gradient_norm import gradient_norm
from edgenas.strategies.proxies.grasp import grasp
from edgenas.strategies.proxies.jacobian import jacobian_covariance
from edgenas.strategies.proxies.naswot import naswot
from edgenas.strategies.proxies.prescreen import prescreen
from edgenas.strategies.proxies.score import PROXIES, ProxyScore
from edgenas.strategies.proxies.snip import snip
from edgenas.strategies.proxies.synflow import logsynflow, synflow
from edgenas.strategies.proxies.tangent_kernel import kernel_condition
from edgenas.strategies.proxies.zico import zico
from edgenas.strategies.run import search


def linear(seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear classifier, some inputs and labels, all doubles."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Linear(3, 4, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.randn(4, 3, generator=generator))
    x = torch.randn(6, 3, generator=generator).double()
    return network, x, torch.arange(6) % 4


def conv(*, norm: bool = True, seed: int = 0) -> nn.Sequential:
    """A small conv network, doubles."""
    torch.manual_seed(seed)
    parts = [nn.Conv2d(3, 5, 3, padding=1, bias=False)]
    parts += [nn.BatchNorm2d(5)] if norm else []
    parts += [nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2, groups=1, bias=False), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()


def images(n: int = 7) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    return x, torch.arange(n) % 3


def weights_of(network: nn.Module) -> list[Tensor]:
    return [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def loss_at(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Cross-entropy by its definition; batch norms use the batch and forget it."""
    logits = copy.deepcopy(network).train()(x).detach().numpy()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    shares = odds / odds.sum(1, keepdims=True)
    return float(-np.log(shares[np.arange(len(labels)), labels.numpy()]).mean())


def test_snip_of_a_linear_classifier_is_that_of_the_formula():
    network, x, labels = linear()
    w = network.weight.detach().numpy()
    logits = x.numpy() @ w.T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (shares - np.eye(4)[labels.numpy()]).T @ x.numpy() / len(x)
    assert snip(network, x, labels) == pytest.approx(np.abs(w * gradient).sum())


def test_snip_is_the_first_order_change_of_the_loss():
    """Equation 3 of the paper: the derivative of the loss in a mask of the weight, at one."""
    network = conv()
    x, labels = images()
    expected = 0.0
    for weight in weights_of(network):
        flat, step = weight.data.view(-1), 1e-5
        for i in range(len(flat)):
            kept = float(flat[i])
            losses = []
            for mask in (1 + step, 1 - step):
                flat[i] = kept * mask
                losses.append(loss_at(network, x, labels))
            flat[i] = kept
            expected += abs(losses[0] - losses[1]) / (2 * step)
    assert snip(network, x, labels) == pytest.approx(expected, rel=1e-5)


def test_grasp_is_minus_the_weights_times_hessian_times_gradient():
    """The Hessian whole, by central differences of the gradient of a network small enough."""
    network, x, labels = linear(3)

    def gradient(flat: np.ndarray) -> np.ndarray:
        w = flat.reshape(4, 3)
        logits = x.numpy() @ w.T
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return ((shares - np.eye(4)[labels.numpy()]).T @ x.numpy() / len(x)).ravel()

    w, step = network.weight.detach().numpy().ravel(), 1e-6
    unit = np.eye(len(w)) * step
    hessian = np.stack([(gradient(w + u) - gradient(w - u)) / (2 * step) for u in unit])
    expected = -(w * (hessian @ gradient(w))).sum()
    assert grasp(network, x, labels) == pytest.approx(expected, rel=1e-6)


def test_grasp_of_a_conv_network_agrees_with_differences_of_its_gradient():
    network = conv(norm=True)
    x, labels = images()

    def gradients(shift: list[Tensor] | None, size: float) -> list[Tensor]:
        moved = copy.deepcopy(network).train()
        with torch.no_grad():
            for weight, by in zip(weights_of(moved), shift or [], strict=False):
                weight.add_(size * by)
        loss = nn.functional.cross_entropy(moved(x), labels)
        return list(torch.autograd.grad(loss, weights_of(moved)))

    g = gradients(None, 0.0)
    pairs = zip(gradients(g, 1e-4), gradients(g, -1e-4), strict=True)
    products = [(up - down) / 2e-4 for up, down in pairs]
    expected = -sum(
        float((w * h).detach().sum()) for w, h in zip(weights_of(network), products, strict=True)
    )
    assert grasp(network, x, labels) == pytest.approx(expected, rel=1e-3)


def test_synflow_of_two_linear_layers_is_that_of_the_formula():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    first, second = (np.abs(m.weight.detach().double().numpy()) for m in network[::2])
    flow = np.ones(2) @ second @ first @ np.ones(3)
    found = synflow(network, torch.zeros(4, 3), torch.zeros(4))
    # Each layer conserves the flow, and the score is its sum over layers.
    assert found == pytest.approx(2 * flow)


def test_synflow_is_conserved_from_layer_to_layer():
    """Theorem 1 of the paper: in a network of ReLUs without biases all layers have the same sum."""
    network = conv(norm=True)
    network[-1].bias.data.zero_()
    x, labels = images()
    positive = copy.deepcopy(network).eval()
    del positive[1]  # the batch norm does nothing
    for parameter in positive.parameters():
        parameter.data.abs_()
    total_flow = float(positive(torch.ones(1, 3, 8, 8).double()).detach().sum())
    layers = weights_of(positive)
    assert synflow(network, x, labels) == pytest.approx(len(layers) * total_flow)
    # Scaling one layer scales the flow of all: it is a product over layers.
    network[0].weight.data.mul_(3)
    assert synflow(network, x, labels) == pytest.approx(3 * len(layers) * total_flow)


def test_naswot_is_the_log_determinant_of_the_kernel_by_hand():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 7), nn.Hardswish())
    x = torch.randn(5, 4)
    hidden = network[0](x).detach().numpy()
    last = network[2](network[1](network[0](x))).detach().numpy()
    codes = np.concatenate([hidden > 0, last > 0], axis=1)
    kernel = np.empty((5, 5))
    for i in range(5):
        for j in range(5):
            kernel[i, j] = sum(a == b for a, b in zip(codes[i], codes[j], strict=True))
    assert kernel[0, 0] == 16
    expected = np.linalg.slogdet(kernel)[1]
    assert naswot(network, x, torch.zeros(5)) == pytest.approx(expected, rel=1e-5)


def test_naswot_of_images_that_look_alike_is_the_lowest():
    network = conv()
    x, labels = images()
    same = x[:1].repeat(7, 1, 1, 1)
    assert naswot(network, same, labels) < naswot(network, x, labels)


def two_layers(seed: int = 5) -> tuple[nn.Sequential, np.ndarray, np.ndarray, Tensor]:
    """A network of two linear layers with a rectifier, its weights, and images; all doubles."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False))
    first, second = (layer.weight.detach().double().numpy() for layer in network[::2])
    return network.double(), first, second, torch.randn(5, 6).double()


def gradients_of(first: np.ndarray, second: np.ndarray, x: np.ndarray, labels: np.ndarray):
    """The gradients of the mean cross-entropy in both layers, by the chain rule."""
    hidden = np.maximum(x @ first.T, 0)
    logits = hidden @ second.T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (shares - np.eye(3)[labels]) / len(x)
    return ((slope @ second) * (hidden > 0)).T @ x, slope.T @ hidden


def test_the_gradient_norm_is_the_sum_of_those_of_layers():
    network, first, second, x = two_layers()
    labels = np.arange(5) % 3
    expected = sum(np.linalg.norm(g) for g in gradients_of(first, second, x.numpy(), labels))
    assert gradient_norm(network, x, torch.from_numpy(labels)) == pytest.approx(expected)


def test_logsynflow_takes_the_logarithm_of_each_gradient():
    network, first, second, x = two_layers()
    first, second = abs(first), abs(second)
    of_second = np.outer(np.ones(3), first @ np.ones(6))
    of_first = np.outer(second.T @ np.ones(3), np.ones(6))
    expected = (first * np.log(1 + of_first)).sum() + (second * np.log(1 + of_second)).sum()
    assert logsynflow(network, x, torch.zeros(5)) == pytest.approx(expected)


def jacobians(first: np.ndarray, second: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ((x @ first.T > 0) * second.sum(0)) @ first


def test_the_jacobian_score_is_that_of_the_correlations_by_hand():
    network, first, second, x = two_layers()
    correlation = np.corrcoef(jacobians(first, second, x.numpy()))
    eigenvalues = np.maximum(np.linalg.eigvalsh(correlation), 0) + 1e-5
    expected = -(np.log(eigenvalues) + 1 / eigenvalues).sum()
    assert jacobian_covariance(network, x, torch.zeros(5)) == pytest.approx(expected, rel=1e-6)
    alike = x[:1].repeat(5, 1)
    assert jacobian_covariance(network, alike, torch.zeros(5)) < expected


def test_the_kernel_score_is_the_condition_of_the_tangent_kernel_by_hand():
    network, first, second, x = two_layers()
    rows = []
    for image in x.numpy():
        hidden = first @ image
        of_first = np.outer((hidden > 0) * second.sum(0), image)
        of_second = np.outer(np.ones(3), np.maximum(hidden, 0))
        rows.append(np.concatenate([of_first.ravel(), of_second.ravel()]))
    kernel = np.array(rows) @ np.array(rows).T
    found = kernel_condition(network, x, torch.zeros(5))
    assert found == pytest.approx(-np.linalg.cond(kernel), rel=1e-6)
    # Two images that are the same cannot be told apart: the kernel is as good as singular.
    assert kernel_condition(network, x[[0, 1, 1]], torch.zeros(3)) < 1e6 * found


def test_zico_is_the_mean_by_the_deviation_of_two_batches_by_hand():
    network, first, second, _ = two_layers()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(3)).double()
    labels = np.arange(8) % 3
    halves = [gradients_of(first, second, x.numpy()[k::2], labels[k::2]) for k in (0, 1)]
    expected = 0.0
    for one, other in zip(*halves, strict=True):
        mean, deviation = (abs(one) + abs(other)) / 2, abs(abs(one) - abs(other)) / 2
        differs = deviation > 0
        expected += np.log((mean[differs] / deviation[differs]).sum())
    assert zico(network, x, torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-6)
    same = x[[0, 0, 1, 1]]
    assert zico(network, same, torch.tensor([0, 0, 1, 1])) == 0


@pytest.mark.parametrize("proxy", PROXIES)
def test_proxies_take_cells_with_what_nobody_reads_and_with_nothing(proxy: str):
    space = PRESETS["nas-bench-201"]()
    space = replace(
        space,
        stages=tuple(replace(s, widths=(4,), depths=(1,)) for s in space.stages),
        resolutions=(16,),
    )
    # The edges (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2): nobody reads node 1 of the first.
    rows = np.array([[4, 4, 1, 4, 1, 2], [1, 1, 1, 1, 1, 1]], np.uint8)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = [
        PROXIES[proxy](Network(space, arch), x, torch.arange(4) % 3) for arch in space.decode(rows)
    ]
    assert np.isfinite(scores[0])
    assert not np.isnan(scores[1])


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_leaves_its_network_alone_and_repeats_itself(name: str):
    network = Network(tiny_space(), tiny_space().largest())
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = PROXIES[name](network, x, torch.arange(4) % 3)
    assert np.isfinite(first)
    assert PROXIES[name](network, x, torch.arange(4) % 3) == first
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["mbv3-cifar", "ofa-resnet50"])
@pytest.mark.parametrize("proxy", PROXIES)
def test_proxies_take_the_networks_of_other_spaces(name: str, proxy: str):
    space = PRESETS[name]()
    network = Network(space, space.smallest())
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert np.isfinite(PROXIES[proxy](network, x, torch.tensor([0, 1, 2, 0])))


# As scores of rows


@pytest.fixture(scope="module")
def batch() -> ProxyBatch:
    made = toy_images(12)
    return ProxyBatch(
        pixels=made.pixels,
        labels=made.labels,
        preprocessing=Preprocessing(stored=16, mean=(0.5,) * 3, std=(0.25,) * 3),
        source="toys",
    )


def test_scores_depend_on_the_network_alone(batch: ProxyBatch):
    rows = tiny_space().sample(6, rng=np.random.default_rng(0), by="gene")
    score = ProxyScore(tiny_space(), proxy="naswot", batch=batch)
    together = score(rows)
    alone = ProxyScore(tiny_space(), proxy="naswot", batch=batch)
    assert [float(alone(row[None])[0]) for row in rows[::-1]] == together[::-1].tolist()
    assert not np.array_equal(
        ProxyScore(tiny_space(), proxy="naswot", batch=batch, seed=1)(rows), together
    )


def test_a_search_takes_a_proxy_for_accuracy(batch: ProxyBatch):
    space = tiny_space()
    score = ProxyScore(space, proxy="synflow", batch=batch)
    limit = Limit(constraint=parse_constraint("macs<=100K"), values=macs_table(space))
    found = search(space, maximize=score, subject_to=[limit], strategy="random", evaluations=12)
    assert total(space, found.best.arch).macs <= 100_000
    assert found.best.score == max(score(space.encode([p.arch]))[0] for p in found.front)


def test_a_prescreen_keeps_the_best_and_says_what_that_is_worth(batch: ProxyBatch):
    space = tiny_space()
    rows = space.sample(14, rng=np.random.default_rng(1), by="gene")
    score = ProxyScore(space, proxy="synflow", batch=batch)
    kept = prescreen(score, rows, keep=4)
    assert kept.scores.tolist() == sorted(score(rows), reverse=True)[:4]
    assert "its agreement with accuracy is not known here" in str(kept)
    judged = prescreen(score, rows, keep=4, measured=(rows, score(rows)), of="itself")
    assert judged.agreement is not None
    assert (judged.agreement.spearman, judged.agreement.kendall) == pytest.approx((1.0, 1.0))
    assert "Spearman 1.00" in str(judged)
    assert "to itself on 14 networks" in str(judged)


def test_agreement_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 20, 60).astype(float)  # with ties
    other = one + rng.normal(0, 5, 60)
    found = measure_agreement(one, other, of="noise")
    assert found.spearman == pytest.approx(stats.spearmanr(one, other).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(one, other).statistic)
    assert found.low < found.spearman < found.high
    assert measure_agreement(np.ones(20), other[:20], of="nothing").spearman == 0


def test_counts_are_what_a_proxy_must_beat():
    space = tiny_space()
    rows = space.encode([space.largest(), space.smallest()])
    costs = [total(space, space.largest()), total(space, space.smallest())]
    assert count_tables(space)["params"](rows).tolist() == [c.params for c in costs]
    assert count_tables(space)["macs"](rows).tolist() == [c.macs for c in costs]


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda b: ProxyScore(tiny_space(), proxy="snap", batch=b), "unknown proxy 'snap'"),
        (
            lambda b: ProxyScore(tiny_space(), proxy="zico", batch=replace(b, pixels=b.pixels[:3])),
            "zico must see at least 4 images, found 3",
        ),
        (lambda b: measure_agreement(np.ones(9), np.ones(9), of="x"), "at least 10 networks"),
        (
            lambda b: prescreen(
                ProxyScore(tiny_space(), proxy="snip", batch=b),
                tiny_space().encode([tiny_space().largest()]),
                keep=2,
            ),
            "keep must be from 1 to 1, found 2",
        ),
    ],
)
def test_what_cannot_be_is_told(batch: ProxyBatch, do: Callable, message: str):
    with pytest.raises(EdgenasError, match=message):
        do(batch)


def test_a_batch_takes_turns_among_classes():
    made = toy_images(60, classes=5)
    steps = Preprocessing(stored=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = draw_batch(made, count=13, preprocessing=steps)
    numbers = np.bincount(found.labels.numpy(), minlength=5)
    assert numbers.sum() == 13
    assert numbers.max() - numbers.min() <= 1
    known = {
        (p.numpy().tobytes(), int(label)) for p, label in zip(made.pixels, made.labels, strict=True)
    }
    drawn = {
        (p.numpy().tobytes(), int(label))
        for p, label in zip(found.pixels, found.labels, strict=True)
    }
    assert drawn <= known
    assert len(drawn) == 13


# The verb


@pytest.mark.slow
def test_the_verb_prints_what_proxies_are_worth(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["edgenas", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, log = capsys.readouterr()
        assert (stop.value.code or 0) == (2 if "error: " in log else 0), log
        return out or log

    words = ("proxies", "--supernet", tiny, "--archs", 12, "--images", 6, "--sample", 6)
    told = json.loads(run(*words, "--space", "tiny", "--keep", 2, "--json"))
    assert set(told["agreements"]) == {*PROXIES, "params", "macs"}
    predictor = load_accuracy(tiny / ACCURACY_FILE)
    rows, accuracies, _ = draw_measured_networks(predictor, count=12)
    for name, count in count_tables(predictor.space).items():
        expected = stats.spearmanr(count(rows), accuracies).statistic
        assert told["agreements"][name]["spearman"] == pytest.approx(expected)
    assert len(told["kept"]["networks"]) == 2
    text = run(*words, "--space", "mbv3-cifar", "--keep", 2)
    assert "its agreement with accuracy is not known here" in text
    assert "Spearman" in text
    assert "synthetic images with random labels" in text
    assert "proxy must be one of snip, grasp" in run(*words, "--space", "tiny", "--proxy", "snap")
