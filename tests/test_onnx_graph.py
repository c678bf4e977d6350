"""Files of others, read in one way: inputs told apart, nodes in order, constants folded."""

import os
import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.inputs import parse_shape
from edgenas.onnx_graph.model import load, loads
from edgenas.onnx_graph.price import read_network
from edgenas.onnx_graph.walk import infer
from tools.benchmarks.foreign_oracle import counted

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def weight(name: str, *shape: int, kind: type = np.float32) -> onnx.TensorProto:
    values = np.random.default_rng(1).standard_normal(shape) * 0.1
    return numpy_helper.from_array(values.astype(kind), name)


def whole(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def value(name: str, shape: list | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def made(
    nodes: list, inputs: list, constants: list, *, output: str = "y", opset: int = 17, **more
) -> onnx.ModelProto:
    ends = [helper.make_empty_tensor_value_info(output)]
    graph = helper.make_graph(nodes, "g", inputs, ends, constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def pointwise(batch: int = 1) -> onnx.ModelProto:
    """A conv of 1x1 from three channels to two."""
    image = value("x", [batch, 3, 8, 8])
    return made([node("Conv", ["x", "w"], ["y"])], [image], [weight("w", 2, 3, 1, 1)])


def macs(model: onnx.ModelProto, folder: Path, **options) -> int:
    path = folder / "made.onnx"
    path.write_bytes(model.SerializeToString())
    return read_network(path, **options).macs


def agrees(model: onnx.ModelProto, folder: Path, **inputs: np.ndarray) -> int:
    """The multiplications, the same as those of a real run."""
    found = macs(model, folder)
    assert (found,) == counted(model.SerializeToString(), inputs=inputs)[:1]
    return found


# A batch hidden inside


@pytest.mark.parametrize("frames", [[1, 5, 3, 16, 16], [1, 15, 16, 16]])
def test_images_that_a_reshape_makes_share_their_weights(frames: list, tmp_path: Path):
    nodes = [node("Reshape", ["x", "s"], ["f"]), node("Conv", ["f", "w"], ["y"], pads=[1] * 4)]
    model = made(nodes, [value("x", frames)], [whole("s", 5, 3, 16, 16), weight("w", 6, 3, 3, 3)])
    assert agrees(model, tmp_path) == 5 * 16 * 16 * 6 * 27
    (conv,) = read_network(tmp_path / "made.onnx").operators
    assert (conv.weights, conv.input_elements) == (6 * 27, 5 * 3 * 16 * 16)


@pytest.mark.parametrize(
    ("a", "b", "fixed", "expected"),
    [
        ([1, 1, 10, 8], (4, 8, 6), "right", 4 * 10 * 8 * 6),
        ([8, 6], (4, 10, 8), "left", 4 * 10 * 8 * 6),
        ([3, 8, 6], (10, 8), "left", 3 * 10 * 8 * 6),
        ([8], (8, 6), "right", 48),
        ([1, 3, 10, 8], (8,), "right", 3 * 10 * 8),
    ],
)
def test_a_product_multiplies_as_often_whatever_side_its_weight_is_on(
    a: list, b: tuple, fixed: str, expected: int, tmp_path: Path
):
    names = ["x", "w"] if fixed == "right" else ["w", "x"]
    model = made([node("MatMul", names, ["y"])], [value("x", a)], [weight("w", *b)])
    assert agrees(model, tmp_path) == expected


# Whole numbers


def test_whole_numbers_that_come_in_are_data(tmp_path: Path):
    table = [weight("table", 50, 16), weight("w", 16, 24), whole("s", -1, 7), whole("last", -1)]
    ids = [node("Reshape", ["ids", "s"], ["i"]), node("Gather", ["table", "i"], ["e"])]
    mask = [node("Cast", ["mask"], ["m"], to=FLOAT), node("Unsqueeze", ["m", "last"], ["u"])]
    rest = [node("Mul", ["e", "u"], ["g"]), node("MatMul", ["g", "w"], ["y"])]
    inputs = [value("ids", [1, 7], INT64), value("mask", [1, 7], INT64)]
    assert agrees(made([*ids, *mask, *rest], inputs, table), tmp_path) == 7 * 16 * 24


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64])
def test_an_image_of_whole_numbers_is_an_image(kind: int, tmp_path: Path):
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Cast", ["t"], ["f"], to=FLOAT),
        node("Conv", ["f", "w"], ["y"]),
    ]
    model = made(nodes, [value("x", [1, 12, 12, 3], kind)], [weight("w", 4, 3, 3, 3)])
    assert agrees(model, tmp_path) == 100 * 4 * 27


def test_arithmetic_that_starts_at_a_shape_is_followed_to_the_padding(tmp_path: Path):
    nodes = [
        node("Shape", ["x"], ["full"], start=2, end=3),
        node("Mod", ["full", "two"], ["odd"]),
        node("Sub", ["three", "odd"], ["more"]),
        node("Concat", ["zeros", "more", "more"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["y"], strides=[2, 2]),
    ]
    constants = [whole("two", 2), whole("three", 3), whole("zeros", *[0] * 6)]
    model = made(nodes, [value("x", [1, 3, 15, 15])], [*constants, weight("w", 8, 3, 3, 3)])
    assert agrees(model, tmp_path) == 8 * 8 * 8 * 27


# Scalars and order


def test_numbers_without_extents_are_priced(tmp_path: Path):
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("ReduceMax", ["c"], ["m"], keepdims=0),
        node("Mul", ["m", "scale"], ["s"]),
        node("Add", ["s", "s"], ["y"]),
    ]
    model = made(nodes, [value("x", [1, 3, 9, 9])], [weight("w", 5, 3, 3, 3), weight("scale")])
    assert agrees(model, tmp_path) == 49 * 5 * 27


def test_nodes_may_stand_in_any_order(tmp_path: Path):
    nodes = [
        node("MatMul", ["h", "b"], ["y"]),
        node("Relu", ["g"], ["h"]),
        node("MatMul", ["x", "a"], ["g"]),
    ]
    model = made(nodes, [value("x", [2, 8])], [weight("a", 8, 6), weight("b", 6, 3)])
    assert macs(model, tmp_path) == 2 * (48 + 18)
    assert [n.op_type for n in load(tmp_path / "made.onnx").proto.graph.node] == [
        "MatMul",
        "Relu",
        "MatMul",
    ]
    del model.graph.node[2]
    with pytest.raises(EdgenasError, match="Relu 'h' reads 'g', which nothing gives"):
        loads(model.SerializeToString())
    model.graph.node.append(node("Relu", ["h"], ["g"]))
    with pytest.raises(EdgenasError, match="wait for each other in a circle"):
        loads(model.SerializeToString())
    model.graph.node.append(node("Relu", ["x"], ["h"]))
    with pytest.raises(EdgenasError, match="two nodes or inputs give 'h'"):
        loads(model.SerializeToString())


# Inputs


def inputs_of(*inputs: onnx.ValueInfoProto, nodes: list | None = None):
    first = inputs[0].name
    return loads(
        made(nodes or [node("Relu", [first], ["y"])], list(inputs), []).SerializeToString()
    )


@pytest.mark.parametrize(
    ("shape", "batch", "filled"),
    [
        ([-1, 3, 8, 8], None, (4, 3, 8, 8)),
        ([0, 3, 8, 8], None, (4, 3, 8, 8)),
        (["n", 3, 8, 8], None, (4, 3, 8, 8)),
        ([None, 5], None, (4, 5)),
        ([6, "batch", 5], None, (6, 4, 5)),
        ([2, 3, 8, 8], 2, (2, 3, 8, 8)),
        ([9], 1, (9,)),
    ],
)
def test_an_open_batch_is_filled_wherever_it_stands(shape: list, batch: int | None, filled: tuple):
    model = inputs_of(value("x", shape))
    assert model.batch == batch
    assert model.closed(batch=4).inputs[0].shape == filled


def test_states_and_sizes_do_not_tell_the_batch():
    cell = node("LSTM", ["x", "w", "w", "", "", "memory_in", "cell_in"], ["y"], hidden_size=4)
    names = [value("memory_in", [2, 1, 4]), value("cell_in", [2, None, 4]), value("x", ["t", 1, 4])]
    model = loads(made([cell], names, [weight("w", 2, 16, 4)]).SerializeToString())
    assert [one.state for one in model.inputs] == [True, True, False]
    assert [one.batch_at for one in model.inputs] == [None, 1, 0]
    boxes = inputs_of(value("orig_im_size", [2]), value("image", [1, 3, 8, 8]))
    assert (boxes.batch, boxes.closed(batch=7).batch) == (1, 1)


def test_a_symbol_means_the_same_extent_in_every_input():
    model = inputs_of(value("ids", ["batch", "length"], INT64), value("mask", ["batch", "length"]))
    closed = model.closed(batch=2, shapes={"ids": (2, 11)})
    assert [one.shape for one in closed.inputs] == [(2, 11), (2, 11)]
    with pytest.raises(
        EdgenasError, match=r"ids \(batch, length\) leaves its size open"
    ) as refused:
        model.closed()
    assert refused.value.hint == "give it: --shape ids=1x?"


def test_an_input_without_a_shape_gets_its_rank_from_the_conv_that_reads_it(tmp_path: Path):
    model = made([node("Conv", ["x", "w"], ["y"])], [value("x", None)], [weight("w", 8, 3, 3, 3)])
    assert macs(model, tmp_path, size=(10, 10)) == 64 * 8 * 27
    assert macs(model, tmp_path, shapes={"x": (2, 3, 10, 10)}) == 2 * 64 * 8 * 27
    with pytest.raises(EdgenasError, match=r"x \(\?, 3, \?, \?\) leaves its size open"):
        macs(model, tmp_path)


def test_a_batch_is_asked_for_where_the_file_holds_several_images(tmp_path: Path):
    model = made(
        [node("Conv", ["x", "w"], ["y"])], [value("x", [4, 3, 8, 8])], [weight("w", 2, 3, 1, 1)]
    )
    with pytest.raises(EdgenasError, match="holds 4 images") as refused:
        macs(model, tmp_path)
    assert "--batch 4" in refused.value.hint
    assert macs(model, tmp_path, batch=4) == 4 * 64 * 6
    (caution,) = read_network(tmp_path / "made.onnx", batch=4).cautions()
    assert "a run is 4 images" in caution


@pytest.mark.parametrize("text", ["x=", "=1x2", "x=1xx2", "x=-1x2", "x=1x" + "9" * 11, "x=1,2"])
def test_a_shape_that_is_none_is_refused(text: str):
    with pytest.raises(EdgenasError, match="must read like image=1x3x224x224"):
        parse_shape(text)


# Branches, loops and functions


def test_a_branch_whose_condition_is_known_is_followed(tmp_path: Path):
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("MatMul", ["x", w], [f"{name}_y"])], name, [], [value(f"{name}_y", None)]
        )
        for name, w in (("then", "a"), ("else", "b"))
    }
    nodes = [
        node("Shape", ["x"], ["s"], start=1),
        node("Equal", ["s", "eight"], ["is"]),
        node("Squeeze", ["is"], ["cond"]),
        node("If", ["cond"], ["y"], **branches),
    ]
    weights = [weight("a", 8, 5), weight("b", 8, 99), whole("eight", 8)]
    assert macs(made(nodes, [value("x", [2, 8])], weights), tmp_path) == 2 * 40
    nodes[2:3] = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["cond"], to=9)]
    with pytest.raises(EdgenasError, match="If 'y' cannot be priced: how often MatMul 'else_y'"):
        macs(made(nodes, [value("x", [2, 8])], weights), tmp_path)


def test_a_loop_multiplies_as_often_as_it_runs(tmp_path: Path):
    body = helper.make_graph(
        [node("MatMul", ["h", "w"], ["g"]), node("Identity", ["go"], ["on"])],
        "body",
        [value("i", [], INT64), value("go", [], TensorProto.BOOL), value("h", None)],
        [value("on", [], TensorProto.BOOL), value("g", None), value("g", None)],
    )
    turns = numpy_helper.from_array(np.array(7), "turns")
    nodes = [node("Loop", ["turns", "", "x"], ["last", "y"], body=body)]
    model = made(nodes, [value("x", [2, 8])], [weight("w", 8, 8), turns])
    assert macs(model, tmp_path) == 7 * 2 * 64
    graph = infer(load(tmp_path / "made.onnx").closed())
    assert (graph.shapes["last"], graph.shapes["y"]) == ((2, 8), (7, 2, 8))


def test_a_scan_multiplies_for_each_part(tmp_path: Path):
    body = helper.make_graph(
        [node("MatMul", ["part", "w"], ["m"]), node("Add", ["m", "h"], ["g"])],
        "body",
        [value("h", None), value("part", None)],
        [value("g", None), value("g", None)],
    )
    nodes = [node("Scan", ["h0", "x"], ["last", "y"], body=body, num_scan_inputs=1)]
    inputs = [value("h0", [4]), value("x", [5, 6])]
    assert macs(made(nodes, inputs, [weight("w", 6, 4)]), tmp_path) == 5 * 24


def test_functions_of_a_file_are_inlined_and_may_not_call_themselves(tmp_path: Path):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    inner = helper.make_function(
        "mine", "Dense", ["a", "b"], ["c"], [node("MatMul", ["a", "b"], ["c"])], opsets
    )
    nodes = [
        node("Dense", ["x", "w"], ["t"], domain="mine"),
        node("Dense", ["t", "w"], ["y"], domain="mine"),
    ]
    model = made(nodes, [value("x", [3, 8])], [weight("w", 8, 8)], functions=[inner])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert macs(model, tmp_path) == 2 * 3 * 64
    model.functions[0].node.append(node("Dense", ["c", "b"], ["d"], domain="mine"))
    with pytest.raises(EdgenasError, match="the function 'Dense' calls itself"):
        macs(model, tmp_path)
    # Nor may one that nothing calls.
    del model.graph.node[:]
    model.graph.node.append(node("MatMul", ["x", "w"], ["y"]))
    with pytest.raises(EdgenasError, match="the function 'Dense' calls itself"):
        macs(model, tmp_path)


# Other spellings of products


CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_recurrent_cell_is_its_products(kind: str, direction: str, tmp_path: Path):
    two, wide = 1 + (direction == "bidirectional"), CELLS[kind] * 6
    cell = node(kind, ["x", "w", "r"], ["y"], hidden_size=6, direction=direction)
    weights = [weight("w", two, wide, 5), weight("r", two, wide, 6)]
    model = made([cell], [value("x", [9, 1, 5])], weights)
    assert agrees(model, tmp_path) == 9 * two * wide * 11


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("bij,jk->bik", [2, 5, 8], (8, 3)),
        ("bhqd,bhkd->bhqk", [1, 3, 5, 8], (1, 3, 7, 8)),
        ("...ij,jk", [1, 4, 5, 8], (8, 3)),
        ("i,j->ij", [6], (4,)),
        ("bn,anm,bm->ba", [1], (1,)),
    ],
)
def test_an_einsum_multiplies_once_for_each_combination(
    equation: str, a: list, b: tuple, tmp_path: Path
):
    nodes = [node("Einsum", ["x", "w"], ["y"], equation=equation)]
    model = made(nodes, [value("x", a)], [weight("w", *b)])
    if equation.count(",") > 1:
        with pytest.raises(EdgenasError, match="Einsum 'y'"):
            macs(model, tmp_path)
    else:
        agrees(model, tmp_path)


@pytest.mark.parametrize(
    ("kind", "given"), [("MatMulInteger", np.uint8), ("ConvInteger", np.uint8)]
)
def test_integer_products_count_like_others(kind: str, given: type, tmp_path: Path):
    shape, w = ([1, 3, 8, 8], (4, 3, 3, 3)) if kind == "ConvInteger" else ([1, 5, 8], (8, 6))
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node(kind, ["q", "w", "z"], ["y"]),
    ]
    model = made(nodes, [value("x", shape)], [weight("w", *w, kind=given)])
    assert agrees(model, tmp_path) > 0


# Hostile files


def hostile(folder: Path) -> dict[str, bytes]:
    conv = made(
        [node("Conv", ["x", "w"], ["y"])], [value("x", [1, 3, 8, 8])], [weight("w", 2, 3, 1, 1)]
    )
    huge = made([node("Relu", ["x"], ["y"])], [value("x", [2**31 - 1] * 4)], [])
    negative = onnx.ModelProto.FromString(conv.SerializeToString())
    negative.graph.initializer[0].dims[0] = -2
    tiled = made(
        [node("Tile", ["x", "t"], ["y"])], [value("x", [1, 8])], [whole("t", 2**40, 2**20)]
    )
    claims = onnx.ModelProto.FromString(conv.SerializeToString())
    claims.graph.initializer[0].dims[:] = [2**31, 3, 1, 1]
    outside = onnx.ModelProto.FromString(conv.SerializeToString())
    _beside(outside.graph.initializer[0], "../secret")
    deep = node("Identity", ["x"], ["y"])
    for i in range(28):
        body = helper.make_graph([deep], f"g{i}", [], [value("y", None)])
        deep = (
            node("If", ["c"], ["y"], then_branch=body, else_branch=body)
            if i < 1
            else node("If", ["c"], ["y"], then_branch=body)
        )
    nested = made([deep], [value("x", [1]), value("c", [1], TensorProto.BOOL)], [])
    bomb = b"\x3a" + b"\xff\xff\xff\x07" + b"\x0a\x00" * (2**23 - 1)
    short = made([node("Loop", ["x"], ["y"])], [value("x", [1])], [])
    newest = pointwise()
    newest.opset_import[0].version = 2**40
    return {
        "short": short.SerializeToString(),
        "newest": newest.SerializeToString(),
        "bytes": conv.SerializeToString().replace(b"Conv", b"C\xff\xfev"),
        "huge": huge.SerializeToString(),
        "negative": negative.SerializeToString(),
        "tiled": tiled.SerializeToString(),
        "claims": claims.SerializeToString(),
        "outside": outside.SerializeToString(),
        "nested": nested.SerializeToString(),
        "bomb": bomb,
        "truncated": conv.SerializeToString()[:-9],
    }


def _beside(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("name", sorted(hostile(Path())))
def test_what_would_break_a_reader_is_one_line(name: str, tmp_path: Path):
    path = tmp_path / "x.onnx"
    path.write_bytes(hostile(tmp_path)[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EdgenasError) as refused:
        read_network(path)
        load(path).closed().serialized()
    assert len(refused.value.message) <= 300
    assert "\n" not in refused.value.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB


def test_weights_are_taken_from_the_folder_of_the_model_alone(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 24)
    (folder / "w.bin").write_bytes(b"\0" * 24)
    os.symlink(tmp_path / "secret", folder / "link")
    model = made(
        [node("Conv", ["x", "w"], ["y"])], [value("x", [1, 3, 8, 8])], [weight("w", 2, 3, 1, 1)]
    )
    path = folder / "m.onnx"
    for location, wrong in [
        ("w.bin", ""),
        ("../secret", "must lie in the folder of the model"),
        (str(tmp_path / "secret"), "must lie in the folder of the model"),
        ("link", "is a link"),
        ("absent", "cannot read"),
        ("", "must lie in the folder"),
    ]:
        held = onnx.ModelProto.FromString(model.SerializeToString())
        _beside(held.graph.initializer[0], location)
        path.write_bytes(held.SerializeToString())
        if not wrong:
            assert len(load(path).closed().serialized()) > 24
            continue
        with pytest.raises(EdgenasError, match=wrong):
            load(path).closed().serialized()


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(EdgenasError, match="not a regular file"):
        load(tmp_path / "pipe.onnx")
    with (tmp_path / "long.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(EdgenasError, match="at most 2 GB"):
        load(tmp_path / "long.onnx")


NUMBERS = [
    kind
    for kind in TensorProto.DataType.values()
    if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
]


@pytest.mark.parametrize("kind", NUMBERS, ids=TensorProto.DataType.Name)
def test_a_tensor_has_as_many_values_as_it_says(kind: int):
    tensor = helper.make_tensor("w", kind, [5], [1] * 5)
    model = made(
        [node("Constant", [], ["w"], value=tensor), node("Identity", ["w"], ["y"])], [], []
    )
    assert loads(model.SerializeToString())
    model.graph.node[0].attribute[0].t.dims[0] = 2**63 - 1
    with pytest.raises(EdgenasError, match="its tensor 'w' has fewer values than it says"):
        loads(model.SerializeToString())
