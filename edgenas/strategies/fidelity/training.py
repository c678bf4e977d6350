"""Networks trained alone from fresh weights: the score of a search over trainings."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate
from edgenas.model.network import Network, initialise
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.training.alone import train_alone
from edgenas.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedAlone:
    """Rows and epochs to accuracies on validation images, for ``search_trainings(train=...)``.

    Each training is kept in a file of its own. One that was killed goes on from its last
    checkpoint, one that ended is only read.

    Args:
        space: of the rows.
        training: images to learn from.
        validation: images that are classified.
        calibration: stored training images for the statistics of batch norms.
        recipe: how networks are trained; each training has the epochs that it is asked for.
        preprocessing: how images become inputs.
        folder: where trainings are kept; it belongs to these very arguments.
        seed: of weights, order and views.
        progress: called with ("training", steps done, steps in all, words).
    """

    space: Space
    training: Images
    validation: Images
    calibration: Tensor
    recipe: Recipe
    preprocessing: Preprocessing
    folder: Path
    seed: int = 0
    progress: Progress = no_progress

    def __call__(self, rows: Codes, epochs: int) -> Vector:
        """Accuracies after so many epochs, fractions of 1, shape (n, genes) -> (n,)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return np.array([self._accuracy(arch, epochs) for arch in self.space.decode(rows)])

    def _accuracy(self, arch: Arch, epochs: int) -> float:
        network = Network(self.space, arch)
        initialise(network, generator=torch.Generator().manual_seed(self.seed))
        trained = train_alone(
            network,
            self.training,
            recipe=dataclasses.replace(self.recipe, epochs=epochs),
            preprocessing=self.preprocessing,
            seed=self.seed,
            state=self.folder / f"{arch.id}-{epochs}.safetensors",
            progress=self.progress,
        )
        calibrate(trained, self.calibration, preprocessing=self.preprocessing)
        measured = measure_accuracy(
            trained, self.validation, preprocessing=self.preprocessing, split="validation"
        )
        return measured.value
