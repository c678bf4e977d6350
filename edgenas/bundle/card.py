"""``MODEL_CARD.md`` of a bundle: what a person should know about it."""

from collections.abc import Mapping
from typing import Any

from onnx import ModelProto

from edgenas.basics.units import pixels
from edgenas.bundle.record import Record
from edgenas.latency.benchmark_log import phone_commands
from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.readers import TITLES, name_readers, opset_of, readers_of, show_version

# The lowest versions that example.py was run with, on Python 3.8. Pillow 9.1 has these names of
# filters, and NumPy is what ONNX Runtime asks for. What ONNX Runtime it needs, the model decides.
_NEEDED = ("'numpy>=1.21.6'", "'pillow>=9.1'")
_TRIED = (1, 16)  # the oldest ONNX Runtime that example.py was run with


def model_card(record: Record, *, manifest: Mapping[str, Any], onnx: bytes) -> str:
    """Write the card, in Markdown.

    Args:
        record: the results.
        manifest: its fields; the hashes of files may be missing.
        onnx: its ``model.onnx``.
    """
    model, preprocessing = manifest["model"], manifest["preprocessing"]
    labels, model_file = manifest["labels"], loads(onnx).proto
    first = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
    parts = [
        f"# Image classifier {manifest['arch_id']}",
        f"Made by edgenas {manifest['versions']['edgenas']} for {record.target}, from the "
        f"supernet {record.supernet} (space {manifest['space']['name']}).",
        "## What is promised",
        _to_list([str(promise) for promise in record.promises] or ["nothing: no budget was given"]),
        "## What is known",
        f"- Top-1 {record.accuracy.name}: {record.accuracy}",
        *_describe_classes(record),
        *([f"- Weights of its own: {record.retraining}"] if record.retraining else []),
        *([f"- Quantised: {record.quantisation}"] if record.quantisation else []),
        *([f"- The weights began as {record.origin}"] if record.origin else []),
        _describe_latency(record),
        f"- Costs of one image: {record.costs_text()}",
        f"- Parity with PyTorch: largest difference of a logit "
        f"{manifest['parity']['max_abs_difference']:.1e}, the same top-1 on "
        f"{manifest['parity']['same_top1']} of {manifest['parity']['n']} inputs",
        "## How to use it",
        f"```console\n$ pip install {' '.join(_NEEDED)} {_show_runtime(model_file)}\n"
        "$ python example.py photo.jpg\n```",
        "These are the lowest versions; Python 3.8, which JetPack 5 has, or newer.",
        *_describe_tflite(record, manifest),
        f"- Input `{model['input']}`: {preprocessing['dtype']}, shape "
        f"{_show_shape(model['input_shape'])}, {preprocessing['layout']}, "
        f"{preprocessing['channel_order']}",
        f"- Output `{model['output']}`: logits, shape {_show_shape(model['output_shape'])}",
        f"- Labels ({len(labels)}): {first}",
        f"- `model.onnx` has opset {opset_of(model_file)} and IR {model_file.ir_version}. What "
        f"reads it: {name_readers(model_file)}. {_describe_others(model_file)}",
        "Preprocessing, step by step:",
        "\n".join(f"{i}. {step}" for i, step in enumerate(_describe_steps(preprocessing), 1)),
        "`edgenas verify FOLDER` checks every file of this folder, runs the model on the stored "
        "input and counts its operations again.",
        "## The network",
        f"`{manifest['arch_text']}`",
        "Input resolution, then per stage the width and its blocks as kernel x expansion.",
        "## Limits",
        _to_list(
            [
                *record.notes,
                f"The {record.accuracy.what} is of the data named above; on other images it will "
                "differ.",
                "Softmax shares are not calibrated probabilities.",
                "Latencies are of the target named above, of the model alone without "
                "preprocessing, and of no other device, runtime or precision.",
            ]
        ),
    ]
    return _join_paragraphs(parts)


def _describe_tflite(record: Record, manifest: Mapping[str, Any]) -> list[str]:
    """How ``model.tflite`` is run, where there is one."""
    shape = manifest["model"].get("tflite_input_shape")
    if shape is None:
        return []
    target = record.target
    commands = phone_commands("model.tflite", threads=target.threads, runtime=target.runtime)
    alone = "none: LiteRT's own kernels (Ruy)" if record.target.runtime == "tflite" else "XNNPACK"
    return [
        f"The target runs `model.tflite` with LiteRT (TensorFlow Lite), delegate {alone}:",
        f"```console\n$ pip install {' '.join(_NEEDED)} ai-edge-litert\n"
        "$ python example_litert.py photo.jpg\n```",
        f"- Signature `serving_default`, input `image`: float32, shape {_show_shape(shape)}, NHWC",
        "On a phone, LiteRT's `benchmark_model` times it; `edgenas bench` reads what it prints:",
        "```console\n" + "\n".join(f"$ {line}" for line in commands) + "\n```",
    ]


def _describe_classes(record: Record) -> list[str]:
    """The least accurate classes and the worst confusion, where they were measured."""
    if record.classes is None:
        return []
    classes = record.classes
    worst = "; ".join(str(one) for one in classes.worst_first[:3])
    lines = [f"- Mean of the {len(classes.each)} classes: {classes.mean:.2%}; the worst: {worst}"]
    if classes.confused:
        lines.append(f"- Confused most often: {classes.confused[0]}")
    return lines


def _show_runtime(model_file: ModelProto) -> str:
    """The ONNX Runtime that example.py needs, as pip wants it."""
    since = [one.since for one in readers_of(model_file) if one.name == "onnxruntime"]
    return f"'onnxruntime>={show_version(max(_TRIED, *since))}'"


def _describe_others(model_file: ModelProto) -> str:
    """What to do for programs that do not read the model."""
    missing = [title for title in TITLES.values() if title not in name_readers(model_file)]
    others = " and ".join(["older versions", *missing])
    return f"For {others}, `edgenas export FOLDER --to onnx --reader NAME-VERSION` writes one."


def _describe_latency(record: Record) -> str:
    lines: list[str] = []
    if record.measured is not None:
        lines.append(f"Latency: {record.measured}")
        if record.predicted is not None:
            lines.append(f"Latency before it was measured: {record.predicted}")
    elif record.predicted is not None:
        lines.append(f"Latency, not measured on this model: {record.predicted}")
    else:
        lines.append("Latency: not known; nothing was measured or estimated for this target")
    if record.energy is not None:
        lines.append(f"Energy, not measured on this model: {record.energy}")
    return _to_list(lines)


def _describe_steps(preprocessing: Mapping[str, Any]) -> list[str]:
    stored, resolution = preprocessing["resize"]
    fit = preprocessing.get("fit", "crop")
    crop, interpolation = preprocessing["crop"], preprocessing["interpolation"]
    sizes = f"to {pixels(stored)}, then to {pixels(resolution)} pixels, {interpolation}"
    if "crop_fraction" in preprocessing:
        framed = [
            f"cut the {crop}; this resizing is {interpolation}",
            f"resize to {pixels(resolution)} pixels, {interpolation}",
        ]
    elif fit == "crop":
        framed = [f"cut the {crop}", f"resize {sizes}"]
    else:
        framed = [f"{fit}: {crop}", f"resize {sizes}"]
    return [
        f"decode to {preprocessing['decode']}",
        *framed,
        f"divide by 255, subtract {preprocessing['mean']}, divide by {preprocessing['std']} "
        f"({preprocessing['channel_order']})",
    ]


def _show_shape(shape: list[Any]) -> str:
    return " x ".join(str(size) for size in shape)


def _to_list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _join_paragraphs(parts: list[str]) -> str:
    """Join paragraphs with empty lines between them; neighbouring list items form one list."""
    text = ""
    for part in parts:
        same_list = part.startswith("- ") and text.rpartition("\n")[2].startswith("- ")
        text += ("\n" if same_list else "\n\n") * bool(text) + part
    return text + "\n"
