"""The loop that gradient strategies share: learn probabilities of the choices of a supernet.

The weights are fixed. Every step takes a batch of search images, an estimator's gradient of the
cross entropy with respect to the logits, and the exact gradient of the expected costs: what a limit
is exceeded by counts, squared.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from edgenas.cost import Tables
from edgenas.data import Images, Preprocessing
from edgenas.errors import EdgenasError, unknown
from edgenas.files import disk_errors, writing
from edgenas.gradient.checkpoint import Checkpoint, digest
from edgenas.gradient.expected import Expected
from edgenas.gradient.gumbel import Gumbel
from edgenas.gradient.paths import Paths
from edgenas.gradient.policy import Picks, Policy
from edgenas.gradient.proxyless import Proxyless
from edgenas.gradient.reinforce import Reinforce
from edgenas.supernet import Supernet


class Estimator(Protocol):
    """How a strategy finds the gradient of the cross entropy with respect to the logits."""

    momentum: float
    entropy_bonus: float
    baseline: float | None

    def loss(
        self,
        policy: Policy,
        paths: Paths,
        *,
        pixels: Tensor,
        labels: Tensor,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Picks, float]:
        """A scalar with the gradient, the network that ran, and its cross entropy.

        Args:
            policy: to learn.
            paths: of the supernet.
            pixels: of the batch, uint8, shape (n, 3, stored, stored).
            labels: shape (n,).
            progress: the part of all steps that is done, from 0 to 1.
            generator: of all chance.
        """
        ...


STRATEGIES: Mapping[str, Callable[[], Estimator]] = {
    "proxyless": Proxyless,
    "gumbel": Gumbel,
    "reinforce": Reinforce,
}
_VERSION = "1"  # raise it where the same request would learn something else: old states are left
_KEPT = 10  # steps between checkpoints
# The multiplier of a limit is so many times the part by which it is exceeded, and at most so much.
# It forgets at once: one that adds up goes on pressing long after the expectation has come down.
_HARD, _HARDEST = 20.0, 3.0
# Of Adam: 20 steps are remembered, as the gradients of costs at the start are far larger than any
# that follow.
_BETA = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long and how fast to learn.

    Args:
        steps: batches.
        batch: images of a batch.
        rate: learning rate of Adam; logits move about as much a step.
    """

    steps: int = 300
    batch: int = 128
    rate: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A limit on an expectation.

    Args:
        name: of the metric, e.g. ``latency``.
        tables: sums over places.
        limit: in their unit.
    """

    name: str
    tables: Tables
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What came out.

    Args:
        policy: the logits.
        history: one dictionary a step: step, loss, entropy, and of each ceiling its expectation
            and its multiplier.
    """

    policy: Policy
    history: tuple[dict[str, float], ...]


def learn(
    supernet: Supernet,
    *,
    strategy: str,
    images: Images,
    preprocessing: Preprocessing,
    ceilings: Sequence[Ceiling] = (),
    seed: int = 0,
    settings: Settings | None = None,
    folder: Path | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Learnt:
    """Learn which alternatives of a supernet are worth their cost.

    Args:
        supernet: its weights; they are left as they are.
        strategy: ``proxyless``, ``gumbel`` or ``reinforce``.
        images: the weights must not have been trained on them, nor may the result be tested on
            them.
        preprocessing: how they become inputs.
        ceilings: limits on expected costs.
        seed: of all chance: the same seed gives the same logits.
        settings: how long and how fast.
        folder: where the state is kept, in a file of its own for each different search; one that
            was killed goes on to the same result, one that ended is only read. Beside it lies the
            history as a CSV file. None: nowhere.
        tell: called with (steps done, steps in all, words).

    Raises:
        EdgenasError: an unknown strategy, or no images.
    """
    settings = settings or Settings()
    if strategy not in STRATEGIES:
        listing = "edgenas specialize --help"
        raise unknown("strategy", strategy, known=STRATEGIES, listing=listing)
    if len(images) < 2:
        raise EdgenasError(f"a gradient search needs at least 2 images, found {len(images)}")
    estimator = STRATEGIES[strategy]()
    policy = Policy(supernet.space)
    paths = Paths(supernet, policy, preprocessing=preprocessing)
    expected = [Expected(supernet.space, ceiling.tables) for ceiling in ceilings]
    adam = torch.optim.Adam(policy.logits, lr=settings.rate, betas=(estimator.momentum, _BETA))
    multipliers = [0.0] * len(ceilings)
    generator = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    columns = ["step", "loss", "entropy"]
    columns += [f"{kind} {c.name}" for c in ceilings for kind in ("expected", "multiplier")]
    checkpoint = None
    if folder is not None:
        texts = [
            _VERSION,
            strategy,
            str(seed),
            str(settings),
            repr(supernet.space),
            str(preprocessing),
        ]
        texts += [f"{c.name} {c.limit!r} {c.tables.constant!r}" for c in ceilings]
        tables = [torch.from_numpy(v.copy()) for c in ceilings for v in c.tables.values]
        data = [*supernet.parameters(), images.pixels, images.labels, *tables]
        path = folder / f"{strategy}-{digest(texts, data)[:24]}.safetensors"
        checkpoint = Checkpoint(path, logits=policy.logits, adam=adam, generator=generator)
        state = checkpoint.load(columns)
        if state is not None:
            history, multipliers, estimator.baseline = state
    batch = min(settings.batch, len(images))
    training = supernet.training
    supernet.train()
    try:
        for step in range(len(history), settings.steps):
            tell(step, settings.steps, "")
            lines = torch.randperm(len(images), generator=generator)[:batch]
            loss, _, value = estimator.loss(
                policy,
                paths,
                pixels=images.pixels[lines],
                labels=images.labels[lines],
                progress=step / max(settings.steps - 1, 1),
                generator=generator,
            )
            entropy = policy.entropy()
            total = loss - estimator.entropy_bonus * entropy
            probabilities = policy.probabilities()
            record = {"step": step, "loss": value, "entropy": float(entropy.detach())}
            for i, (ceiling, expectation) in enumerate(zip(ceilings, expected, strict=True)):
                over = expectation(probabilities) / ceiling.limit - 1
                multipliers[i] = min(_HARDEST, _HARD * max(0.0, float(over.detach())))
                total = total + multipliers[i] * over
                record[f"expected {ceiling.name}"] = (float(over.detach()) + 1) * ceiling.limit
                record[f"multiplier {ceiling.name}"] = multipliers[i]
            if not math.isfinite(value):
                raise EdgenasError(
                    "the loss of a sampled network is no number",
                    hint="the supernet is damaged: edgenas verify, or train it again",
                )
            adam.zero_grad()
            total.backward()
            adam.step()
            assert list(record) == columns
            history.append(record)
            done = len(history) == settings.steps
            if checkpoint is not None and (done or len(history) % _KEPT == 0):
                checkpoint.save(history, multipliers=multipliers, baseline=estimator.baseline)
                _write_history(history, checkpoint.path.with_suffix(".csv"))
    finally:
        supernet.train(training)
    tell(settings.steps, settings.steps, "")
    return Learnt(policy=policy, history=tuple(history))


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    with disk_errors(path), writing(path) as part, part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
