"""Mixtures: several alternatives of a choice run at once, and their outputs are added up.

A mixture of all alternatives of every choice is DARTS' relaxation (arXiv 1806.09055, section 2.2).
Only blocks and operations of cells can be mixed. Depths, widths and resolutions change shapes: one
alternative is drawn, and a second one is compared with it as a whole network (``two.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgenas.strategies.gradient.policy import Picks, Policy
from edgenas.strategies.gradient.step import GradientStep

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """The alternatives that run.

    Args:
        picks: of every choice the alternatives that run; of what cannot be mixed, one.
        gates: what their outputs are multiplied by, shape (alternatives,). None: the only
            alternative runs as it is.
        others: by choice that cannot be mixed, a second alternative, and the gates of both.
        parts: one part in so many of the channels goes through alternatives, the rest passes by.
        scales: by choice, what the output of its edge is multiplied by.
        skip_dropout: the share of values that skip connections lose.
        generator: of the chance of that loss.
    """

    picks: tuple[tuple[int, ...], ...]
    gates: tuple[Tensor | None, ...]
    others: Mapping[int, tuple[int, Tensor]] = field(default_factory=dict)
    parts: int = 1
    scales: Mapping[int, Tensor] = field(default_factory=dict)
    skip_dropout: float = 0.0
    generator: torch.Generator | None = None

    @property
    def first(self) -> Picks:
        """The first alternative of every choice."""
        return [picks[0] for picks in self.picks]

    @property
    def most(self) -> int:
        """How many alternatives run where most do."""
        return max((len(picks) for picks in self.picks), default=1)

    def exchange(self, place: int, pick: int) -> "Mixture":
        """This mixture with another alternative of a choice that cannot be mixed."""
        return Mixture(
            picks=(*self.picks[:place], (pick,), *self.picks[place + 1 :]),
            gates=self.gates,
            parts=self.parts,
            scales=self.scales,
        )


Mix = Callable[[Policy, GradientStep], Mixture]


def one_network(picks: Picks) -> Mixture:
    """The mixture of one network alone."""
    return Mixture(picks=tuple((pick,) for pick in picks), gates=(None,) * len(picks))


def mix(
    policy: Policy,
    step: GradientStep,
    *,
    picks: Sequence[Sequence[int]],
    gates: Sequence[Tensor],
    parts: int = 1,
    scales: Mapping[int, Tensor] | None = None,
) -> Mixture:
    """A mixture of what can be mixed; of everything else two alternatives are drawn.

    Args:
        policy: whose choices.
        step: its chance and its settings.
        picks: of every choice the alternatives that run, where it can be mixed.
        gates: of these, shape (alternatives,).
        parts: see ``Mixture``.
        scales: see ``Mixture``.
    """
    running: list[tuple[int, ...]] = []
    opened: list[Tensor | None] = []
    others: dict[int, tuple[int, Tensor]] = {}
    for i, (choice, scores) in enumerate(zip(policy.choices, policy.scores(), strict=True)):
        if choice.mixed:
            running.append(tuple(picks[i]))
            opened.append(gates[i])
            continue
        (first, second), both = draw_pair(scores, step.generator)
        running.append((first,))
        opened.append(None)
        if second != first:
            others[i] = second, both
    # Dropped less and less, so that at the end the network is the one that is chosen.
    dropout = step.settings.skip_dropout * (1 - step.progress)
    return Mixture(
        picks=tuple(running),
        gates=tuple(opened),
        others=others,
        parts=parts,
        scales=scales or {},
        skip_dropout=dropout,
        generator=step.generator,
    )


def mix_all(policy: Policy, step: GradientStep, gates: Sequence[Tensor]) -> Mixture:
    """A mixture of all alternatives; ``gates`` are of every choice, shape (size,)."""
    return mix(policy, step, picks=[range(c.size) for c in policy.choices], gates=gates)


def draw_pair(scores: Tensor, generator: torch.Generator) -> tuple[Pair, Tensor]:
    """Two alternatives of a choice as ProxylessNAS draws them (arXiv 1812.00332, section 3.2.1).

    Args:
        scores: of the alternatives, shape (size,).
        generator: of the chance.

    Returns:
        The alternatives, the active one first; equal where there is only one. And their gates of 1
        and 0, whose gradient is that of the probabilities.
    """
    chances = torch.softmax(scores.detach(), 0).clamp_min(1e-9)  # two of them can be drawn
    count = min(2, len(scores))
    # Without replacement, in random order: the first is the active one in the proportion of their
    # probabilities.
    drawn = torch.multinomial(chances, count, generator=generator)
    pair = int(drawn[0]), int(drawn[-1])
    both = torch.softmax(scores[list(pair)].detach(), 0)
    if count == 2 and torch.rand((), generator=generator) >= both[0]:
        pair = pair[1], pair[0]
    soft = torch.softmax(scores[list(pair)], 0)
    return pair, torch.tensor([1.0, 0.0]) - soft.detach() + soft
