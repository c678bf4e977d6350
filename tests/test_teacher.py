"""Given models as teachers: what they answer is learnt, and what does not fit is refused."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_train import RECIPE, CutOffError, cut_off_at
from torch import Tensor, nn
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate
from edgenas.model.export import to_onnx
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny as tiny_space
from edgenas.training.loop import train
from edgenas.training.options import TrainingOptions
from edgenas.training.recipe import Recipe
from edgenas.training.step import TrainingBatch, distillation_loss, sandwich_step
from edgenas.training.teacher import Teacher, load_teacher

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(stored=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
TOYS = toy_images(30)


class Mean(nn.Module):
    """Logits that are the mean of each channel, times a factor."""

    def __init__(self, classes: int = 3, *, shares: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(3, classes, bias=False)
        nn.init.eye_(self.linear.weight)
        self.shares = shares

    def forward(self, x: Tensor) -> Tensor:
        logits = 5 * self.linear(x.mean((2, 3)))
        return logits.softmax(1) if self.shares else logits


def wanted(pixels: Tensor) -> Tensor:
    """What ``Mean`` has to answer to stored pixels of its own size, by hand."""
    mean, std = (torch.tensor(v).view(1, 3) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    return 5 * (pixels.double().mean((2, 3)) / 255 - mean) / std


def scripted(path: Path, model: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model.eval()), path)
    return path


def saved(graph: onnx.GraphProto, path: Path) -> Path:
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def drawn(path: Path, *, shape: list, kind: int = TensorProto.FLOAT, outputs: int = 3) -> Path:
    """``Mean`` as an ONNX file."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    eye = 5 * np.eye(3, outputs, dtype=helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [shape[0], outputs])],
        [onnx.numpy_helper.from_array(eye, "w")],
    )
    return saved(graph, path)


def load(path: Path, **options: object) -> Teacher:
    given = {"mean": PREPROCESSING.mean, "std": PREPROCESSING.std, "classes": 3, "stored": 16}
    return load_teacher(path, place=CPU, **(given | options))  # type: ignore[arg-type]


# The loss


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_the_paper(temperature: float):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 5, 4))

    def softened(z: np.ndarray) -> np.ndarray:
        powers = np.exp(z / temperature)
        return powers / powers.sum(1, keepdims=True)

    entropy = -(softened(teacher) * np.log(softened(student))).sum(1).mean()
    tensors = torch.from_numpy(student), torch.from_numpy(teacher)
    found = distillation_loss(*tensors, temperature=temperature)
    assert found.item() == pytest.approx(temperature**2 * entropy)


def test_at_a_high_temperature_logits_are_matched():
    # Section 2.1 of the paper: the gradient becomes that of half the squared difference.
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    student, teacher = (z - z.mean(1, keepdim=True) for z in (student, teacher))
    student.requires_grad_()
    distillation_loss(student, teacher, temperature=1e4).backward()
    assert student.grad is not None
    # In float64. The softmax is linear up to its second order, a part of 4 / 1e4 of each: 4e-4.
    torch.testing.assert_close(
        student.grad,
        (student.detach() - teacher) / 4 / 6,
        rtol=1e-3,
        atol=1e-5,
    )


def test_a_step_is_the_sum_of_both_losses_for_every_network():
    space = tiny_space().with_classes(3)
    archs = [space.largest(), space.smallest()]
    answers = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))

    def step(distillation: float, labels: Tensor) -> tuple[list[float], list[Tensor]]:
        supernet = Supernet(space, seed=5)
        losses = sandwich_step(
            supernet,
            archs,
            TrainingBatch(pixels=TOYS.pixels, labels=labels, answers=answers),
            recipe=Recipe(distillation=distillation, temperature=2.0),
            preprocessing=PREPROCESSING,
        )
        return losses, [p.grad for p in supernet.parameters() if p.grad is not None]

    losses, gradients = zip(*(step(d, TOYS.labels) for d in (0.0, 0.25, 1.0)), strict=True)
    for without, some, alone in zip(*losses, strict=True):
        # Measured with kernels for SSE4.1, AVX2 and AVX-512: a fiftieth of both numbers.
        assert some == pytest.approx(0.75 * without + 0.25 * alone, rel=1e-5)
    for without, some, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(some, 0.75 * without + 0.25 * alone, rtol=1e-4, atol=1e-6)
    # What is learnt from the teacher alone knows nothing of the labels.
    assert step(1.0, TOYS.labels.flip(0))[0] == losses[2]


# The models


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_an_onnx_file_is_asked_as_it_wants_to_be(tmp_path: Path, batch: int | str):
    teacher = load(drawn(tmp_path / "mean.onnx", shape=[batch, 3, 16, 16]))
    found = teacher.logits(TOYS.pixels[:7])
    # A mean of 256 numbers in float32: 256 roundings of 2**-24 at worst, 1.5e-5 of up to 5.
    torch.testing.assert_close(found.double(), wanted(TOYS.pixels[:7]), rtol=1e-4, atol=1e-4)
    assert not found.requires_grad
    assert teacher.size == 16


def test_torchscript_is_asked_too(tmp_path: Path):
    paths = [scripted(tmp_path / f"{s}.pt", Mean(shares=s)) for s in (False, True)]
    plain, shares = (load(path) for path in paths)
    found = plain.logits(TOYS.pixels)
    torch.testing.assert_close(found.double(), wanted(TOYS.pixels), rtol=1e-4, atol=1e-4)
    assert (plain.shares, shares.shares) == (False, True)
    # A model that answers shares teaches the same at every temperature.
    for temperature in (1.0, 3.0):
        soft = [(t.logits(TOYS.pixels) / temperature).softmax(1) for t in (plain, shares)]
        torch.testing.assert_close(*soft, rtol=1e-4, atol=1e-5)


def test_another_size_and_half_precision(tmp_path: Path):
    path = drawn(tmp_path / "half.onnx", shape=["n", 3, "h", "w"], kind=TensorProto.FLOAT16)
    teacher = load(path, size=24)
    found = teacher.logits(TOYS.pixels)
    assert found.dtype == torch.float32
    # fp16 rounds by 2**-11. Inputs are up to 5 and logits up to 25, and their factor is 5:
    # 25 * 2**-11 for each rounding, of which there are fewer than ten. Measured: a tenth of it.
    torch.testing.assert_close(found.double(), wanted(TOYS.pixels), rtol=0, atol=0.2)
    assert load(path).size == 16  # nothing says otherwise


def test_a_model_of_edgenas_says_how_its_inputs_are_made(tmp_path: Path):
    space = tiny_space().with_classes(3)
    network = Supernet(space, seed=2).extract(space.largest())
    calibrate(network, TOYS.pixels, preprocessing=PREPROCESSING)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(network, preprocessing=PREPROCESSING.to_json()))
    teacher = load_teacher(path, classes=3, stored=16, place=CPU)
    with torch.no_grad():
        own = network(PREPROCESSING.prepare(TOYS.pixels, resolution=16))
    # Measured with kernels for SSE4.1, AVX2 and AVX-512: 3e-4 of it.
    torch.testing.assert_close(teacher.logits(TOYS.pixels), own, rtol=1e-3, atol=1e-4)
    right = (own.argmax(1) == TOYS.labels).double().mean().item()
    assert teacher.accuracy(TOYS) == (pytest.approx(right), 30)
    assert teacher.record["mean"] == [0.5, 0.4, 0.3]
    assert len(teacher.record["sha256"]) == 64


class Pair(Mean):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x, x


def two_inputs(path: Path) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "abc"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])], "", values[:2], [values[2]]
    )
    return saved(graph, path)


def flat(path: Path, *, shape: list, kind: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [shape[0], 768])],
    )
    return saved(graph, path)


def pickled(path: Path) -> Path:
    torch.save(Mean(), path)
    return path


def written(path: Path) -> Path:
    path.write_bytes(b"no model")
    return path


def cut(path: Path) -> Path:
    scripted(path, Mean())
    with_tail = path.read_bytes().replace(b"forward", b"fxrward")
    path.write_bytes(with_tail)
    return path


@pytest.mark.parametrize(
    ("make", "name", "options", "words"),
    [
        (lambda p: p, "none.onnx", {}, "no file .*none.onnx"),
        (written, "net.tflite", {}, r"must be an \.onnx file or TorchScript"),
        (written, "net.onnx", {}, "damaged or no ONNX file"),
        (written, "net.pt", {}, "must be TorchScript; a pickle of a model"),
        (pickled, "net.pt", {}, "must be TorchScript; a pickle of a model"),
        (pickled, "net.pth", {}, "could run anything"),
        (two_inputs, "net.onnx", {}, "one input and one output, found inputs a, b and outputs c"),
        (
            lambda p: flat(p, shape=[1, 16, 16, 3]),
            "net.onnx",
            {},
            r"must take float images of shape \(n, 3, height, width\), its input x is float32 of",
        ),
        (
            lambda p: flat(p, shape=["n", 3, 16, 16], kind=TensorProto.DOUBLE),
            "net.onnx",
            {},
            r"its input x is float64",
        ),
        (
            lambda p: drawn(p, shape=["n", 3, 16, 16], outputs=4),
            "net.onnx",
            {},
            "must tell 3 classes apart, like the images, found 4",
        ),
        (lambda p: scripted(p, Mean(7)), "net.pt", {}, "must tell 3 classes .* found 7"),
        (lambda p: scripted(p, Pair()), "net.pt", {}, "must answer one tensor, found tuple"),
        (
            lambda p: scripted(p, nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 3))),
            "net.pt",
            {},
            r"does not take inputs of shape \(4, 3, 16, 16\)",
        ),
        (
            lambda p: scripted(p, nn.Sequential(nn.Conv2d(3, 3, 3))),
            "net.pt",
            {},
            r"answers of shape \(4, 3, 14, 14\) to 4 images",
        ),
        (
            lambda p: drawn(p, shape=["n", 3, 16, 16]),
            "net.onnx",
            {"size": 24},
            r"takes inputs of 16 x 16 pixels, found 24 x 24",
        ),
        (
            lambda p: drawn(p, shape=["n", 3, 16, 16]),
            "net.onnx",
            {"mean": None},
            "how images become inputs of .* is not known",
        ),
        (
            lambda p: drawn(p, shape=["n", 3, 16, 16]),
            "net.onnx",
            {"mean": (103.0, 116.0, 123.0)},
            r"mean\[0\] must be at most 1, found 103.0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], name: str, options: dict, words: str
):
    with pytest.raises(EdgenasError, match=words):
        load(make(tmp_path / name), **options)


def test_a_pickle_is_not_even_opened(tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "exploded",)

    torch.save(Bomb(), tmp_path / "bomb.pt")
    with pytest.raises(EdgenasError, match="must be TorchScript"):
        load(tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()


def test_a_teacher_sees_the_shape_of_the_images(tmp_path: Path):
    path = drawn(tmp_path / "wide.onnx", shape=["n", 3, 24, 40])
    teacher = load(path, stored=(15, 25))
    assert (teacher.size, teacher.record["size"]) == (24, [24, 40])
    pixels = torch.randint(256, (4, 3, 15, 25), dtype=torch.uint8)
    seen = teacher.preprocessing.prepare(pixels, resolution=24)
    assert seen.shape == (4, 3, 24, 40)
    torch.testing.assert_close(teacher.logits(pixels), 5 * seen.mean((2, 3)))
    with pytest.raises(EdgenasError, match="takes inputs of 24 x 40 pixels, found 24 x 24"):
        load(path)
    # As runs of before have it on record.
    assert load(drawn(tmp_path / "net.onnx", shape=["n", 3, 16, 16])).record["size"] == 16


# A training with one


@pytest.mark.parametrize("kind", ["onnx", "pt"])
def test_a_training_with_a_teacher_goes_on_where_it_was(tmp_path: Path, kind: str):
    toys = toy_images(60)
    path = tmp_path / f"mean.{kind}"
    drawn(path, shape=["n", 3, 16, 16]) if kind == "onnx" else scripted(path, Mean())
    recipe = dataclasses.replace(RECIPE, temperature=2.0, distillation=1.0)
    whole = train(
        tiny_space(),
        toys,
        recipe=recipe,
        out=tmp_path / "whole",
        options=TrainingOptions(teacher=load(path)),
    )
    cut = tmp_path / "cut"
    with pytest.raises(CutOffError):
        train(
            tiny_space(),
            toys,
            recipe=recipe,
            out=cut,
            progress=cut_off_at(4),
            options=TrainingOptions(teacher=load(path)),
        )
    again = train(
        tiny_space(),
        toys,
        recipe=recipe,
        out=cut,
        resume=True,
        options=TrainingOptions(teacher=load(path)),
    )
    for name, tensor in whole.supernet.state_dict().items():
        assert torch.equal(again.supernet.state_dict()[name], tensor), name
    assert whole.training["teacher"]["file"] == path.name
    other = scripted(tmp_path / "other.pt", Mean(shares=True))
    for teacher in (None, load(other)):
        with pytest.raises(EdgenasError, match="--resume: teacher"):
            train(
                tiny_space(),
                toys,
                recipe=recipe,
                out=cut,
                resume=True,
                options=TrainingOptions(teacher=teacher),
            )


def test_from_the_command_line(edgenas, tiny: Path, photos: Path, tmp_path: Path):
    from edgenas.model.saved import load_supernet

    trained = load_supernet(tiny)
    network = trained.supernet.extract(trained.supernet.space.largest())
    calibrate(network, trained.calibration_images(), preprocessing=trained.preprocessing)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(network, preprocessing=trained.preprocessing.to_json()))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = "edgenas.recipe/1"\nepochs = 1\nbatch = 16\naccuracy_archs = 20\n')
    words = ("train", "--space", "tiny", "--data", photos, "--recipe", recipe, "--threads", 1)
    done = edgenas(*words, "--out", tmp_path / "run", "--teacher", path)
    assert done.code == 0, done.log
    assert "teacher model.onnx: " in done.log
    assert "of 9 validation images right, at 16x16 pixels" in done.log
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["teacher"]["mean"] == list(trained.preprocessing.mean)
    assert "asked at 16x16 pixels" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    bad = edgenas(*words, "--out", tmp_path / "no", "--teacher", path, "--teacher-std", "1,2")
    assert bad.code == 2
    assert "--teacher-std must be three numbers" in bad.log
    assert (
        "teacher_size has no effect without teacher"
        in edgenas(*words, "--out", "no", "--teacher-size", 3).log
    )
