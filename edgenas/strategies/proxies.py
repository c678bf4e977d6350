# pyright: standard
"""Zero-cost proxies: scores of untrained networks that may stand in for accuracy, and how far.

One batch of images and fresh weights are all they need, so they can rank a space before any
supernet of it is trained. How well they do so differs from space to space, and the number of
parameters or MACs is often as good (Abdelfattah et al. 2021, arXiv 2101.08134, section 4; Ning et
al. 2021, arXiv 2008.03064). So nothing here gives a score without its rank correlation to measured
accuracies, or the words that it is not known.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.held_out import rank_correlation
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network, initialise
from edgenas.model.saved import TrainedSupernet
from edgenas.space.cost import Vector, macs_table, params_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish)
_DRAWS = 1000  # of the bootstrap


def snip(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of |weight x its gradient|: what the loss would change by without the weights.

    SNIP (Lee et al. 2019, arXiv 1810.02340, equation 5), summed over all weights of convs and
    linears as a score of the network (arXiv 2101.08134, section 3.2).

    Args:
        network: left as it is.
        x: images, shape (n, channels, height, width), or whatever the network takes.
        labels: classes, shape (n,).
    """
    made, weights = _copy(network)
    gradients = torch.autograd.grad(F.cross_entropy(made(x), labels), weights)
    return sum(float((w * g).detach().abs().sum()) for w, g in zip(weights, gradients, strict=True))


def grasp(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of -weight x (Hessian x gradient): what removing weights does to the gradient's norm.

    GraSP (Wang et al. 2020, arXiv 2002.07376, equation 8, here without its temperature), summed
    over all weights of convs and linears. Arguments as in ``snip``.
    """
    made, weights = _copy(network)
    for part in list(made.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(part, name, _TwiceDifferentiable())
    loss = F.cross_entropy(made(x), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    norm = sum(((g * g.detach()).sum() for g in gradients), torch.zeros(()))
    products = torch.autograd.grad(norm, weights, allow_unused=True)
    pairs = zip(weights, products, strict=True)
    return -sum(float((w * hg).detach().sum()) for w, hg in pairs if hg is not None)


class _TwiceDifferentiable(nn.Module):
    """The hard sigmoid, in operators whose gradient torch can differentiate again."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


def synflow(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of weight x gradient of the summed outputs, all weights positive and the input ones.

    SynFlow (Tanaka et al. 2020, arXiv 2006.05467, equation 1 with the objective of section 6).
    Batch norms do nothing, as in arXiv 2101.08134; numbers are doubles, for the sums grow with
    depth. No image and no label is looked at: of ``x`` only the shape counts.
    """
    made, weights = _copy(network)
    made = made.double().eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.eps = 0.0
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.abs_()
    one = torch.ones_like(x[:1], dtype=torch.float64)
    gradients = torch.autograd.grad(made(one).sum(), weights)
    return sum(float((w * g).detach().sum()) for w, g in zip(weights, gradients, strict=True))


def naswot(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Log-determinant of how alike the patterns of active units are that images give.

    NASWOT (Mellor et al. 2021, arXiv 2006.04647, section 3): with c_i the signs at the rectifiers
    for image i, the kernel is the number of units where c_i and c_j agree. A hard swish counts as
    a rectifier of its input. Labels are not looked at. Arguments as in ``snip``.
    """
    made, _ = _copy(network)
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        code = (inputs[0] > 0).flatten(1).float()
        kernel.add_((code @ code.T + (1 - code) @ (1 - code).T).double())

    for part in made.modules():
        if isinstance(part, _RECTIFIERS):
            part.inplace = False
            part.register_forward_hook(look)
    with torch.inference_mode():
        made(x)
    return float(torch.linalg.slogdet(kernel).logabsdet)


PROXIES: Mapping[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "naswot": naswot,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyBatch:
    """The images that proxies look at.

    Args:
        pixels: uint8, shape (n, 3, height, width), n at least 2.
        labels: classes, shape (n,).
        preprocessing: how pixels become inputs.
        source: what they are, in words.
    """

    pixels: Tensor
    labels: Tensor
    preprocessing: Preprocessing
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two rankings of networks are.

    Args:
        n: networks.
        spearman: rank correlation.
        low: of its 95% bootstrap interval over networks.
        high: of that.
        kendall: tau-b, which counts pairs in the right order.
        of: what the scores were held against, in words.
    """

    n: int
    spearman: float
    low: float
    high: float
    kendall: float
    of: str

    def __str__(self) -> str:
        return (
            f"Spearman {self.spearman:.2f} [{self.low:.2f}, {self.high:.2f}], Kendall "
            f"{self.kendall:.2f} to {self.of} on {self.n} networks"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescreen:
    """What a pre-screen kept.

    Args:
        rows: canonical rows, the best score first.
        scores: theirs.
        proxy: its name.
        agreement: of the proxy with measured accuracies; None: not known in this space.
    """

    rows: Codes
    scores: Vector
    proxy: str
    agreement: Agreement | None

    def __str__(self) -> str:
        known = "its agreement with accuracy is not known here: no network of the space was trained"
        return f"{len(self.rows)} networks kept by {self.proxy}; {self.agreement or known}"


class ProxyScore:
    """A proxy as a function of rows, for ``search(maximize=...)`` or ``prescreen``.

    Every network gets fresh weights from the same seed. What was scored once is remembered.

    Args:
        space: of the rows.
        proxy: ``snip``, ``grasp``, ``synflow`` or ``naswot``.
        batch: the images it looks at.
        seed: of the weights.

    Raises:
        EdgenasError: an unknown proxy, or fewer than two images.
    """

    def __init__(self, space: Space, *, proxy: str, batch: ProxyBatch, seed: int = 0) -> None:
        if proxy not in PROXIES:
            raise unknown_name("proxy", proxy, names=PROXIES, listing="edgenas proxies --help")
        if len(batch.pixels) < 2:
            raise EdgenasError(f"a proxy must see at least 2 images, found {len(batch.pixels)}")
        self.space, self.proxy, self.batch, self.seed = space, proxy, batch, seed
        self._known: dict[bytes, float] = {}

    def __call__(self, rows: Codes) -> Vector:
        """Scores of canonical rows, shape (n, genes) -> (n,); the higher, the better."""
        keys = [row.tobytes() for row in rows]
        for key, arch in zip(keys, self.space.decode(rows), strict=True):
            if key in self._known:
                continue
            network = Network(self.space, arch)
            initialise(network, generator=torch.Generator().manual_seed(self.seed))
            x = self.batch.preprocessing.prepare(self.batch.pixels, resolution=arch.resolution)
            self._known[key] = PROXIES[self.proxy](network, x, self.batch.labels)
        return np.array([self._known[key] for key in keys])


def prescreen(
    score: ProxyScore,
    rows: Codes,
    *,
    keep: int,
    judged: tuple[Codes, Vector] | None = None,
    of: str = "measured accuracy",
) -> Prescreen:
    """The best of some networks by a proxy, with what is known of its worth.

    Args:
        score: the proxy.
        rows: candidates, canonical rows, shape (n, genes).
        keep: how many are kept.
        judged: rows of the space with their measured accuracies; None: there are none.
        of: what those accuracies are.

    Raises:
        EdgenasError: nothing would be kept, or fewer than 10 networks are judged.
    """
    if not 1 <= keep <= len(rows):
        raise EdgenasError(f"keep must be from 1 to {len(rows)}, found {keep}")
    scores = score(rows)
    best = np.argsort(-scores, kind="stable")[:keep]
    known = None if judged is None else measure_agreement(score(judged[0]), judged[1], of=of)
    return Prescreen(rows=rows[best], scores=scores[best], proxy=score.proxy, agreement=known)


def measure_agreement(scores: Vector, accuracy: Vector, *, of: str, seed: int = 0) -> Agreement:
    """How alike scores and accuracies rank networks, both of shape (n,).

    Args:
        scores: the higher, the better.
        accuracy: measured.
        of: what the accuracies are, in words.
        seed: of the bootstrap.

    Raises:
        EdgenasError: fewer than 10 networks.
    """
    if len(scores) < 10:
        raise EdgenasError(f"at least 10 networks are needed for an agreement, found {len(scores)}")
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(scores), size=len(scores)) for _ in range(_DRAWS)]
    again = [rank_correlation(scores[draw], accuracy[draw]) for draw in draws]
    low, high = np.quantile(again, (0.025, 0.975))
    kendall = float(stats.kendalltau(scores, accuracy).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return Agreement(
        n=len(scores),
        spearman=rank_correlation(scores, accuracy),
        low=float(low),
        high=float(high),
        kendall=0.0 if np.isnan(kendall) else kendall,
        of=of,
    )


def count_tables(space: Space) -> Mapping[str, Callable[[Codes], Vector]]:
    """What every proxy has to beat: the numbers of parameters and of MACs."""
    return {"params": params_table(space), "macs": macs_table(space)}


def _copy(network: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """A copy in training mode, so that batch norms use the batch, and its weights."""
    made = copy.deepcopy(network).train()
    kinds = (nn.Conv2d, nn.Linear)
    return made, [part.weight for part in made.modules() if isinstance(part, kinds)]


def draw_batch(
    images: Images, *, count: int, preprocessing: Preprocessing, seed: int = 0
) -> ProxyBatch:
    """Some images of a data set, as many of each class as can be.

    Args:
        images: labelled.
        count: how many.
        preprocessing: of the networks.
        seed: of the draw.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels[order].numpy()
    # The first of every class, then the second of every class, and so on.
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turn = np.empty(len(labels), np.intp)
    turn[by_class] = np.arange(len(labels)) - starts
    chosen = order[torch.from_numpy(np.argsort(turn, kind="stable")[:count])]
    return ProxyBatch(
        pixels=images.pixels[chosen],
        labels=images.labels[chosen],
        preprocessing=preprocessing,
        source=f"{len(chosen)} images of {images.source}",
    )


def draw_synthetic_batch(trained: TrainedSupernet, *, count: int, seed: int = 0) -> ProxyBatch:
    """Synthetic images that a supernet carries, with labels drawn at random.

    Raises:
        EdgenasError: the supernet carries none.
    """
    pixels = trained.calibration_images()[:count]
    generator = torch.Generator().manual_seed(seed)
    return ProxyBatch(
        pixels=pixels,
        labels=torch.randint(len(trained.classes), (len(pixels),), generator=generator),
        preprocessing=trained.preprocessing,
        source=f"{len(pixels)} synthetic images with random labels",
    )


def draw_measured_networks(
    predictor: AccuracyPredictor, *, count: int, seed: int = 0
) -> tuple[Codes, Vector, str]:
    """Networks whose accuracy was measured with the weights of a supernet.

    Args:
        predictor: fitted to them.
        count: how many are drawn; all, where there are fewer.
        seed: of the draw.

    Returns:
        Canonical rows, their accuracies, and what these are.

    Raises:
        EdgenasError: the predictor does not hold what it was fitted to.
    """
    if predictor.rows is None or predictor.accuracies is None:
        raise EdgenasError(
            "this accuracy predictor does not hold the networks it was fitted to",
            hint="fit one: edgenas fit-accuracy SUPERNET --data PATH",
        )
    drawn = np.random.default_rng(seed).permutation(len(predictor.rows))[:count]
    return (
        predictor.rows[drawn],
        predictor.accuracies[drawn],
        f"supernet accuracy ({predictor.source})",
    )


def compare_proxies(
    space: Space,
    *,
    batch: ProxyBatch,
    rows: Codes,
    accuracies: Vector,
    of: str,
    seed: int = 0,
    tell: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> dict[str, Agreement]:
    """The agreement of every proxy, and of the numbers of parameters and MACs, with accuracies.

    Args:
        space: of the networks.
        batch: the images that proxies look at.
        rows: canonical rows, shape (n, genes), n at least 10.
        accuracies: measured, shape (n,).
        of: what they are, in words.
        seed: of the weights.
        tell: called with (scorers done, scorers in all, name).
    """
    scorers: dict[str, Callable[[Codes], Vector]] = {
        name: ProxyScore(space, proxy=name, batch=batch, seed=seed) for name in PROXIES
    }
    scorers |= count_tables(space)
    found: dict[str, Agreement] = {}
    for done, (name, scorer) in enumerate(scorers.items()):
        tell(done, len(scorers), name)
        found[name] = measure_agreement(scorer(rows), accuracies, of=of)
    tell(len(scorers), len(scorers), "")
    return found
