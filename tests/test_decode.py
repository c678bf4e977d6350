"""The one decoder: what a dataclass says is read, anything else is one line that says where."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics.decode import decode
from edgenas.basics.errors import LONGEST, EdgenasError, one_line, quote
from edgenas.basics.ranges import (
    ALWAYS,
    Fraction,
    Length,
    Name,
    Pixels,
    Range,
    Seconds,
    Stored,
    Threads,
)


@dataclass(frozen=True, slots=True)
class Use:
    threads: Threads
    kind: Literal["fast", "slow"] = "fast"
    seconds: Annotated[float, Range(0, 1e6, "milliseconds"), Stored("latency_ms", 1e3)] = 1.0
    batch: Annotated[int, Range(1, 64, "count"), ALWAYS] = 1


@dataclass(frozen=True, slots=True)
class Thing:
    name: Name
    uses: Annotated[tuple[Use, ...], Length(1)]
    parts: Mapping[str, Fraction] = field(default_factory=dict[str, float])
    size: Pixels | tuple[Pixels, Pixels] = 1
    upper: Seconds | None = None
    free: Any = None
    flag: bool = False

    def __post_init__(self) -> None:
        if self.flag and self.upper is None:
            raise EdgenasError("upper is needed where flag is set", hint="set it")


GOOD = {"name": "x", "uses": [{"threads": 2, "latency_ms": 5, "batch": 3}]}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def refusal(value: Any) -> str:
    with pytest.raises(EdgenasError) as caught:
        decode(Thing, value, where="a.toml")
    return caught.value.message


def test_a_file_becomes_the_values_of_its_class():
    given = {**GOOD, "parts": {"a": 1}, "size": [3, 4], "upper": 2, "free": {"a": [None, "b", 1.5]}}
    found = decode(Thing, given, where="a.toml")
    assert found == Thing(
        name="x",
        uses=(Use(threads=2, seconds=0.005, batch=3),),
        parts={"a": 1.0},
        size=(3, 4),
        upper=2.0,
        free={"a": [None, "b", 1.5]},
    )
    assert type(found.upper) is float


@given(
    st.builds(
        Thing,
        name=st.text("abc é", min_size=1),
        uses=st.lists(st.builds(Use, threads=st.integers(1, 9), seconds=st.just(1.0))).filter(bool),
        parts=st.dictionaries(st.text("ab"), st.floats(0, 1)),
        size=st.integers(1, 99) | st.tuples(st.integers(1, 9), st.integers(1, 9)),
        upper=st.none() | st.floats(1e-9, 1e6),
        flag=st.just(False),
    )
)
def test_what_json_holds_of_a_value_is_decoded_to_that_value(thing: Thing):
    written = json.loads(json.dumps(dataclasses.asdict(thing)))
    for use in written["uses"]:
        use["latency_ms"] = use.pop("seconds") * 1e3
    assert decode(Thing, written, where="a") == dataclasses.replace(thing, uses=tuple(thing.uses))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uses": [{"threads": -3}]}, "uses[0].threads must be at least 1, found -3"),
        ({"uses": [{"threads": 9999}]}, "uses[0].threads must be at most 4096, found 9999"),
        ({"uses": [{"threads": 2.0}]}, "uses[0].threads must be an integer, found 2.0"),
        ({"uses": [{"threads": True}]}, "uses[0].threads must be an integer, found True"),
        ({"uses": [{"threads": 1}]}, "uses[0]: the field 'batch' is missing"),
        ({"uses": [{"thread": 1}]}, "uses[0]: unknown field 'thread'"),
        ({"uses": []}, "uses must not be empty, found []"),
        ({"uses": {}}, "uses must be a list, found {}"),
        ({"uses": [7]}, "uses[0] must be an object, found 7"),
        ({"name": ""}, "name must not be empty, found ''"),
        ({"name": None}, "name must be a text, found None"),
        ({"name": "a\x1b[2J"}, r"name must be a text without control characters, found 'a\x1b[2J'"),
        ({"name": "a\ud800"}, r"name must be a text without control characters, found 'a\ud800'"),
        ({"name": "\u202eab"}, r"name must be a text without control characters, found '\u202eab'"),
        ({"parts": {"a": 1.5}}, "parts.a must be at most 1, found 1.5"),
        ({"upper": 0}, "upper must be above 0 seconds, found 0"),
        ({"upper": math.nan}, "upper must be a finite number, found nan"),
        ({"upper": -math.inf}, "upper must be a finite number, found -inf"),
        ({"upper": "1"}, "upper must be a number, found '1'"),
        (
            {"upper": 10**5000},
            "upper must be at most 1e+06 seconds, found an integer of 16610 bits",
        ),
        ({"size": [1, 2, 3]}, "size must have 2 items, found [1, 2, 3]"),
        ({"size": "a"}, "size must be an integer or a list, found 'a'"),
        ({"size": 10**9}, "size must be at most 16384 pixels, found 1000000000"),
        ({"size": [1, 0]}, "size[1] must be at least 1 pixel, found 0"),
        ({"flag": 1}, "flag must be true or false, found 1"),
        ({"flag": True}, "upper is needed where flag is set"),
        ({"free": [{"a": math.inf}]}, "free[0].a must be a finite number, found inf"),
        ({"free": {"a": {1}}}, "free.a must be a list, found {1}"),
    ],
    ids=itertools.count(),
)
def test_what_breaks_a_rule_is_told_with_its_place(change: dict[str, Any], message: str):
    assert refusal({**GOOD, **change}) == f"a.toml: {message}"


def test_a_choice_is_told_with_all_its_words():
    uses = [{"threads": 1, "batch": 1, "kind": "fats"}]
    message = "a.toml: uses[0].kind must be one of fast, slow, found 'fats'"
    assert refusal({**GOOD, "uses": uses}) == message


def test_no_object_at_all_is_told():
    assert refusal([1]) == "a.toml must be an object, found [1]"


def test_a_free_value_may_be_of_16_levels_and_no_more():
    assert decode(Thing, {**GOOD, "free": nested(16)}, where="a").free == nested(16)
    assert "must be no deeper than 16 levels" in refusal({**GOOD, "free": nested(17)})
    assert "must be no deeper than 16 levels" in refusal({**GOOD, "free": nested(100_000)})


@pytest.mark.parametrize(
    "value",
    ["x" * 50_000, 7 * 10**4999, nested(50_000), {"a" * 50_000: 1}, ["\x1b" * 9] * 99],
    ids=["text", "integer", "depth", "key", "controls"],
)
def test_what_is_shown_of_a_value_is_short_and_does_not_control_the_terminal(value: Any):
    assert len(quote(value)) <= 80
    assert quote(value).isprintable()


@given(st.text())
def test_a_message_is_one_printable_line_of_at_most_300_characters(text: str):
    line = one_line(text * 20)
    assert len(line) <= LONGEST
    assert line.isprintable()


def test_a_long_message_keeps_its_start_and_its_end():
    line = one_line(f"/a/{'long/' * 200}device.toml: threads must be at least 1, found -3")
    assert line.startswith("/a/long/")
    assert line.endswith("device.toml: threads must be at least 1, found -3")


def test_a_short_message_stays_as_it_is():
    assert one_line("no file a.json") == "no file a.json"


def test_a_number_without_a_range_is_no_field_of_a_file():
    with pytest.raises(ValueError, match="unpack"):
        decode(float, 1.0, where="a")
