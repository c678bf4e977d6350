"""ENAS' controller (Pham et al. 2018; arXiv 1802.03268): a recurrent network that writes networks.

Two layers of an LSTM write one token after the other (section 2.1): the alternative of each choice,
in the order of the genes, each from an embedding of the one before. Choices of absent blocks are
left out, so every network has one way to be written, and the probabilities of all networks sum to
one. Tokens after which no network keeps the limits are masked (``masks.py``).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.gradient.masks import Masks
from edgenas.strategies.gradient.policy import Picks, Policy
from edgenas.strategies.gradient.tilt import Ceiling

_HIDDEN = 64
_SOFT, _HEIGHT = 5.0, 2.5  # logits are 2.5 tanh(x / 5), as in the code of ENAS
_START = 0.1  # weights are uniform up to this (section 3.1)
_RATE = 0.01  # of Adam. ENAS has 0.00035, for as many as 300,000 steps
_LONGEST = 1.0  # the norm that gradients are cut to
_TRIES = 20
_CHUNK = 4096


class Controller(Policy):
    """The recurrent network, as a policy.

    ``logits`` are the mean log-probabilities of the networks that were written last: a picture of
    what is learnt, which nothing is drawn from.

    Args:
        space: whose choices.
        ceilings: limits that every network keeps.
        seed: of the start.
        moves: in a step of the loop; the more there are, the smaller they are.
    """

    def __init__(
        self, space: Space, ceilings: Sequence[Ceiling], *, seed: int, moves: int = 1
    ) -> None:
        super().__init__(space)
        self.masks = Masks(space, ceilings)
        self.written = np.zeros((0, len(space.genes)), np.uint8)  # the rows that were drawn last
        self._ceilings = ceilings
        self._offsets = np.cumsum([0, *(choice.size for choice in self.choices)]).tolist()
        tokens = self._offsets[-1]
        self._cells = nn.ModuleList([nn.LSTMCell(_HIDDEN, _HIDDEN) for _ in range(2)])
        self._embedding = nn.Parameter(torch.empty(tokens + 1, _HIDDEN))  # the last: a beginning
        self._scores = nn.Parameter(torch.empty(tokens, _HIDDEN))
        self._parameters = [self._embedding, self._scores, *self._cells.parameters()]
        generator = torch.Generator().manual_seed(seed)
        self._optimiser = torch.optim.Adam(self._parameters, lr=_RATE / moves)
        for parameter in self._parameters:
            nn.init.uniform_(parameter, -_START, _START, generator=generator)
            self._optimiser.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def tensors(self) -> dict[str, Tensor]:
        """What learning changes in place, by name."""
        by_name = {f"logits.{i}": logits for i, logits in enumerate(self.logits)}
        for i, parameter in enumerate(self._parameters):
            by_name[f"controller.{i}"] = parameter
            state = self._optimiser.state[parameter]
            by_name |= {f"controller.{i}.{name}": tensor for name, tensor in state.items()}
        return by_name

    def move(self, loss: Tensor, *, rate: float, step: int) -> None:
        """Go down the gradient of a loss by Adam, with a gradient of limited length."""
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self._parameters, _LONGEST)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def sample(self, generator: torch.Generator) -> Picks:
        """One network; see ``write``."""
        return self.write(1, generator)[0]

    @torch.no_grad()
    def write(self, count: int, generator: torch.Generator) -> list[Picks]:
        """Networks that keep the limits; one that does not is drawn again.

        Args:
            count: how many.
            generator: of the chance.
        """
        rows = self._draw(count, generator)
        for _ in range(_TRIES):
            lost = np.flatnonzero(~self.masks.keeps(rows))
            if not len(lost):
                break
            rows[lost] = self._draw(len(lost), generator)
        self.written = rows
        return self._picks(rows)

    def expectations(self) -> list[float]:
        """The mean of each limit's metric over the networks that were written last."""
        return [float(ceiling.tables(self.written).mean()) for ceiling in self._ceilings]

    def log_probabilities(self, rows: Codes, *, masks: Masks | None) -> tuple[Tensor, Tensor]:
        """How likely networks are to be written.

        Args:
            rows: canonical, shape (n, genes).
            masks: of the tokens that may follow; None: all may.

        Returns:
            The log-probability of each, shape (n,), and the entropy of its tokens, summed, (n,).
        """
        picks, state = torch.tensor(self._picks(rows)), self._begin(len(rows))
        total, entropy = torch.zeros(len(rows)), torch.zeros(len(rows))
        sums = [torch.zeros(choice.size) for choice in self.choices]
        for at in range(len(self.choices)):
            there = torch.from_numpy(self.masks.present(at, rows))
            logs = self._next(at, rows, state, masks)
            chosen = logs.gather(1, picks[:, at : at + 1])[:, 0]
            total = total + torch.where(there, chosen, 0.0)
            finite = logs.clamp_min(-1e4)
            entropy = entropy - torch.where(there, (logs.exp() * finite).sum(1), 0.0)
            sums[at] = finite.detach().clamp_min(-20.0).mean(0)
            state = self._take(at, picks[:, at], there, state)
        if masks is not None:
            with torch.no_grad():
                for logits, mean in zip(self.logits, sums, strict=True):
                    logits.copy_(mean)
        return total, entropy

    def preference(self) -> Callable[[Codes], Vector]:
        """The log-probabilities of rows, masks apart: who asks keeps limits in another way."""

        @torch.no_grad()
        def score(rows: Codes) -> Vector:
            parts = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
            logs = [self.log_probabilities(part, masks=None)[0].double() for part in parts]
            return torch.cat([*logs, torch.zeros(0).double()]).numpy()

        return score

    def _draw(self, count: int, generator: torch.Generator) -> Codes:
        rows, state = np.zeros((count, len(self.space.genes)), np.uint8), self._begin(count)
        for at, choice in enumerate(self.choices):
            there = self.masks.present(at, rows)
            chances = self._next(at, rows, state, self.masks).exp()
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
            codes = np.array([choice.codes(pick) for pick in drawn.tolist()], np.uint8)
            rows[:, list(choice.columns)] = np.where(there[:, None], codes, 0)
            state = self._take(at, drawn, torch.from_numpy(there), state)
        return rows

    def _picks(self, rows: Codes) -> list[Picks]:
        """The alternatives of rows; of absent blocks the first."""
        columns = [
            np.ravel_multi_index(
                tuple((np.maximum(rows[:, c], 1) - 1).astype(np.intp) for c in choice.columns),
                choice.shape,
            )
            for choice in self.choices
        ]
        return np.stack(columns, 1).tolist()

    def _begin(self, count: int) -> list[Tensor]:
        """The token that begins, and the state of both layers: hidden and cell of each."""
        first = self._embedding[-1].expand(count, _HIDDEN)
        return [first, *(torch.zeros(count, _HIDDEN) for _ in range(4))]

    def _next(self, at: int, rows: Codes, state: list[Tensor], masks: Masks | None) -> Tensor:
        """Log-probabilities of the alternatives of a choice, shape (n, size); moves the state."""
        x = state[0]
        for layer, cell in enumerate(self._cells):
            hidden, memory = cell(x, (state[1 + 2 * layer], state[2 + 2 * layer]))
            state[1 + 2 * layer], state[2 + 2 * layer] = hidden, memory
            x = hidden
        scores = x @ self._scores[self._offsets[at] : self._offsets[at + 1]].T
        scores = _HEIGHT * torch.tanh(scores / _SOFT)
        if masks is not None:
            allowed = torch.from_numpy(masks.allowed(at, rows))
            scores = scores.masked_fill(~allowed, -torch.inf)
        return torch.log_softmax(scores, 1)

    def _take(self, at: int, picks: Tensor, there: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The state with the tokens that were written; an absent block leaves the one before."""
        token = self._embedding[self._offsets[at] + picks]
        return [torch.where(there[:, None], token, state[0]), *state[1:]]
