"""An int8 network whose weights learn for their integers; it ships where it is better for that.

    Prepared, Chosen -> fine_tune_integers -> Chosen

The calibrated int8 network is fine-tuned to give the answers that it gives in fp32. The validation
images choose between the two. The training is kept in the user's cache, under ``quantised/``: what
was killed goes on to the same weights.
"""

import dataclasses
import hashlib

import torch

from edgenas.basics.files import cache_folder
from edgenas.bundle.quantisation import IntegerAccuracy, Quantisation
from edgenas.delivery.building import BuiltNetwork
from edgenas.delivery.choosing import Chosen
from edgenas.delivery.evaluating import explain_absence, run_as_shipped
from edgenas.delivery.preparing import Prepared
from edgenas.images.data import Images
from edgenas.model.calibration import batch_for, predict_logits
from edgenas.model.export import to_onnx
from edgenas.model.network import Network
from edgenas.onnx_graph.integers import with_weights
from edgenas.runtime import registry as runtimes
from edgenas.space.cost import total
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.training.alone import DivergedError
from edgenas.training.division import recipe_of
from edgenas.training.quantised import fine_tune_quantised, plan_quantised
from edgenas.training.recipe import Recipe

_VERSION = "1"  # raise it where the same request would be trained otherwise


def fine_tune_integers(prepared: Prepared, chosen: Chosen) -> Chosen:
    """Fine-tune an int8 network, where that was asked for and can be judged here.

    Args:
        prepared: the target and the images.
        chosen: the network that keeps every budget. Other weights leave its latency as it is.

    Returns:
        The choice with the weights that are better on the validation images, and with what both
        lose against fp32.

    Raises:
        EdgenasError: the file of the training is damaged.
    """
    target, images = prepared.latency.target, prepared.images
    wanted = prepared.request.fine_tunes_integers and prepared.shipped_precision == "int8"
    if not wanted or images.validation is None:
        return chosen
    if images.training is None:
        return _leave(chosen, "all training images are among those for validation or tests")
    absence = explain_absence(target)
    if absence and not runtimes.is_built_by_tool(target.runtime):
        return _leave(chosen, f"{absence} on this machine")
    built = chosen.built
    macs = total(prepared.space, built.arch).macs
    recipe, lesson = plan_quantised(
        recipe_of(prepared.trained),
        images.training,
        macs=macs,
        epochs=prepared.request.int8_epochs,
    )
    try:
        network = _fine_tune(prepared, built, lesson, recipe=recipe)
    except DivergedError as error:
        return _leave(chosen, error.message)
    plain = to_onnx(
        network, preprocessing=prepared.trained.preprocessing.to_json(), batch=target.batch
    )
    tuned = dataclasses.replace(built, onnx=with_weights(built.onnx, plain))
    validation = _judge(prepared, built, tuned, images=images.validation, split="validation")
    others = images.evaluation is not None and images.evaluation is not images.validation
    evaluation = None
    if others and images.evaluation is not None:
        evaluation = _judge(prepared, built, tuned, images=images.evaluation, split=images.split)
    better = validation.fine_tuned > validation.calibrated
    quantisation = Quantisation(
        shipped="fine-tuned" if better else "calibrated",
        steps=recipe.epochs * (len(lesson) // recipe.batch),
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        validation=validation,
        evaluation=evaluation,
    )
    notes = chosen.notes
    if not others:
        notes += (
            "the images that the accuracy is measured on chose between calibrated and fine-tuned "
            "int8 weights, so it is a little optimistic: give others with --test",
        )
    return dataclasses.replace(
        chosen, built=tuned if better else built, notes=notes, quantisation=quantisation
    )


def _leave(chosen: Chosen, why: str) -> Chosen:
    """The choice as it is, with the reason."""
    note = f"int8 weights were not fine-tuned: {why}"
    return dataclasses.replace(chosen, notes=(*chosen.notes, note))


def _fine_tune(
    prepared: Prepared, built: BuiltNetwork, lesson: Images, *, recipe: Recipe
) -> Network:
    """The network with weights that have learnt for the integers of its graph."""
    preprocessing, seed = prepared.trained.preprocessing, prepared.request.seed
    texts = [_VERSION, repr(prepared.space), built.arch.id, str(recipe), str(seed)]
    texts += [str(preprocessing), str(torch.get_num_threads())]
    texts += [hashlib.sha256(built.onnx).hexdigest()]
    tensors = [*built.network.state_dict().values(), lesson.pixels]
    name = digest(texts, tensors)
    return fine_tune_quantised(
        built.network,
        lesson,
        int8=built.onnx,
        recipe=recipe,
        preprocessing=preprocessing,
        seed=seed,
        state=cache_folder() / "quantised" / f"{built.arch.id}-{name[:24]}.safetensors",
        progress=lambda step, done, of, words: prepared.progress(
            "fine-tuning int8", done, of, words
        ),
    )


def _judge(
    prepared: Prepared, built: BuiltNetwork, tuned: BuiltNetwork, *, images: Images, split: str
) -> IntegerAccuracy:
    """How many images the network classifies correctly in fp32, calibrated and fine-tuned."""
    labels, preprocessing = images.labels, prepared.trained.preprocessing
    batch = batch_for(preprocessing.size(built.arch.resolution))
    logits = predict_logits(built.network, images.pixels, preprocessing=preprocessing)

    def count(network: BuiltNetwork) -> int:
        parts = zip(images.pixels.split(batch), labels.split(batch), strict=True)
        return sum(
            int((run_as_shipped(prepared, network, pixels).argmax(1) == true.numpy()).sum())
            for pixels, true in parts
        )

    return IntegerAccuracy(
        split=split,
        images=len(images),
        fp32=int((logits.argmax(1) == labels).sum()),
        calibrated=count(built),
        fine_tuned=count(tuned),
    )
