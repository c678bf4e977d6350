"""How networks that were trained on many images learn a user's few: the recipe ``transfer``.

All numbers of it stand here, in one value. A few epochs of elastic training order the networks of
the space; the best of them that fit a device are then fine-tuned, each alone.
"""

from dataclasses import dataclass, replace

from edgenas.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round of successive halving (arXiv 1502.07943): some networks are trained, the best go on.

    Args:
        networks: how many at most.
        share: of the time for fine-tuning.
    """

    networks: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecipe:
    """How a supernet and its networks are trained on a user's images.

    Args:
        elastic: of the supernet; its epochs are the most that are taken.
        alone: of networks that are fine-tuned alone; its epochs are the most of a round.
        first_seconds: for everything, where a data set is seen for the first time and the user
            does not say.
        further_seconds: for the fine-tuning of a further budget, where the user does not say.
        profile_seconds: for the profile of a device at hand. A space with many resolutions has more
            layers than an hour could time; whole networks tell nearly as much.
        elastic_share: of the time for everything, for the elastic epochs and their evaluations.
        trained_rate: the peak learning rate of networks that start from weights which have learnt
            from these images before; those with the original weights have the one of ``alone``.
        trained_head_rate: the factor for the classifier of such networks.
        rounds: of fine-tuning, one after the other.
        fewest_steps: few images are learnt from for more epochs than the recipes say, until there
            are so many steps.
        fewest_epochs: a round whose networks would have fewer is left out, but the last.
        patience: a training ends soon where so many evaluations in a row brought nothing new.
        cooldown: epochs to the end of a training that ends soon.
        evaluated_share: of the time of a training, at most, for evaluations meanwhile.
        calibration: training images for the batch-norm statistics of those evaluations.
    """

    elastic: Recipe
    alone: Recipe
    first_seconds: float = 45 * 60.0
    further_seconds: float = 15 * 60.0
    profile_seconds: float = 5 * 60.0
    elastic_share: float = 0.35
    trained_rate: float = 0.01
    trained_head_rate: float = 1.0
    rounds: tuple[Round, ...] = (Round(networks=4, share=0.3), Round(networks=2, share=0.7))
    fewest_steps: int = 150
    fewest_epochs: float = 3.0
    patience: int = 6
    cooldown: float = 2.0
    evaluated_share: float = 0.1
    calibration: int = 250

    def alone_from(self, *, trained: bool, images: int, balance: float = 0.0) -> Recipe:
        """How a network is fine-tuned, by what its weights have learnt from before.

        Args:
            trained: whether that were images of this very data set.
            images: how many there are to learn from.
            balance: how they are drawn, as in a recipe.
        """
        recipe = self.fit(replace(self.alone, balance=balance), images=images)
        if not trained:
            return recipe
        return replace(recipe, learning_rate=self.trained_rate, head_rate=self.trained_head_rate)

    def fit(self, recipe: Recipe, *, images: int) -> Recipe:
        """A recipe for so many training images: few of them make small batches, and more epochs."""
        batch = min(recipe.batch, images)
        epochs = max(recipe.epochs, -(-self.fewest_steps // (images // batch)))
        return replace(recipe, batch=batch, epochs=epochs)


_COMMON = Recipe(
    batch=64,
    augmentation="crop",
    smallest_crop=0.7,
    weight_decay=1e-4,
    calibration=500,
)

TRANSFER = TransferRecipe(
    elastic=replace(
        _COMMON,
        epochs=12,
        learning_rate=0.03,
        warmup=0.5,
        smallest_crop=0.35,
        weight_decay=5e-4,
        random_archs=1,
        largest_resolution=128,
        accuracy_archs=60,
        watched=2,
        calibration=250,
    ),
    alone=replace(_COMMON, epochs=30, learning_rate=0.02, head_rate=5.0, warmup=1.0, ema=0.98),
)
