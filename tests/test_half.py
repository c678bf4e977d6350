"""Half precision: what it changes is small, and gradients that overflow leave a step out."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_train import RECIPE, CutOffError, cut_off_at
from torch import Tensor
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing, resize
from edgenas.model.saved import load_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny
from edgenas.training.loop import train
from edgenas.training.options import TrainingOptions
from edgenas.training.recipe import Recipe
from edgenas.training.runs import CHECKPOINT, METRICS, Run
from edgenas.training.state import State
from edgenas.training.step import TrainingBatch, sandwich_step

TOYS = toy_images(60)
SPACE = tiny().with_classes(3)


def learnt(state: State, precision: str) -> list[float]:
    """A step with the largest and the smallest network."""
    losses = sandwich_step(
        state.model,
        [SPACE.largest(), SPACE.smallest()],
        TrainingBatch(pixels=TOYS.pixels, labels=TOYS.labels),
        recipe=Recipe(precision=precision),  # type: ignore[arg-type]
        preprocessing=Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)),
        scaler=state.scaler,
    )
    state.step(0.1)
    return losses


def start(precision: str) -> State:
    recipe = dataclasses.replace(Recipe(), precision=precision, weight_decay=0.0)
    return State.of(Supernet(SPACE, seed=5), recipe)


def weights(state: State) -> Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.08), ("fp16", 0.02)])
def test_a_step_in_half_precision_is_nearly_that_in_single(precision: str, error: float):
    before = weights(start("fp32"))
    single, half = start("fp32"), start(precision)
    losses = learnt(single, "fp32"), learnt(half, precision)
    # Weights and activations are rounded by 2**-9 (bf16) or 2**-12 (fp16), in some ten layers and
    # back: 20 and 80 roundings at most. The losses were off by a thousandth of that.
    assert losses[1] == pytest.approx(losses[0], rel=error)
    moved = weights(single) - before, weights(half) - before
    assert moved[0].norm() > 0
    # Scaled or not, the weights move by the same step.
    assert (moved[1] - moved[0]).norm() < error * moved[0].norm()


@pytest.mark.slow
def test_gradients_that_overflow_leave_the_step_out():
    state = start("fp16")
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**40})
    before, scales = weights(state), [state.scaler.get_scale()]
    for _ in range(40):
        learnt(state, "fp16")
        scales.append(state.scaler.get_scale())
        if scales[-1] == scales[-2]:
            break
        assert torch.equal(weights(state), before)
    # Halved until nothing overflows; then the weights move.
    assert len(scales) > 10
    assert scales[1] == 2.0**39
    assert not torch.equal(weights(state), before)
    assert weights(state).isfinite().all()


def test_the_scale_is_kept_in_the_checkpoint(tmp_path: Path):
    run, state = Run(tmp_path / "run", {"recipe": {}}), start("fp16")
    run.open(resume=False)
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**40})
    learnt(state, "fp16")
    run.save(state, step=1, seconds=2.0)
    again = start("fp16")
    assert again.scaler.state_dict() != state.scaler.state_dict()
    assert run.load(again) == (1, 2.0)
    assert again.scaler.state_dict() == state.scaler.state_dict()
    assert learnt(again, "fp16") == learnt(state, "fp16")
    assert torch.equal(weights(again), weights(state))
    # A checkpoint without a scale is none of an fp16 training.
    run.save(start("fp32"), step=1, seconds=2.0)
    with pytest.raises(EdgenasError, match="is no checkpoint of this run"):
        run.load(again)


def test_without_a_gpu_fp16_is_refused(tmp_path: Path):
    recipe = dataclasses.replace(RECIPE, precision="fp16")
    with pytest.raises(EdgenasError, match="precision fp16 is for GPUs, found --device cpu"):
        train(tiny(), TOYS, recipe=recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_on_a_gpu_learns_and_goes_on(tmp_path: Path, precision: str):
    out = tmp_path / "run"
    recipe = dataclasses.replace(RECIPE, precision=precision, epochs=8)
    with pytest.raises(CutOffError):
        train(
            tiny(),
            TOYS,
            recipe=recipe,
            out=out,
            progress=cut_off_at(10),
            options=TrainingOptions(device="cuda"),
        )
    trained = train(
        tiny(), TOYS, recipe=recipe, out=out, resume=True, options=TrainingOptions(device="cuda")
    )
    assert min(trained.training["curve"][-1]["validation"]) >= 0.8
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    steps = [line["step"] for line in lines if "losses" in line]
    assert steps == sorted(set(steps))
    assert all(tensor.isfinite().all() for tensor in load_tensors(out / CHECKPOINT).values())
    assert next(trained.supernet.parameters()).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(12, 12), (7, 9), (20, 16)])
def test_images_are_resized_on_a_gpu_as_on_a_cpu(size: tuple[int, int]):
    pixels = TOYS.pixels
    here, there = resize(pixels, size=size), resize(pixels.cuda(), size=size).cpu()
    assert there.dtype == torch.uint8
    assert (here.int() - there.int()).abs().max() <= 1
