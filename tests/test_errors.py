"""What a user reads when something is wrong."""

import pytest

from edgenas.basics.errors import EdgenasError, unknown_name

KNOWN = ["jetson-nano", "jetson-orin-nano", "rpi4", "x86"]


def test_an_error_is_one_line_and_a_hint():
    error = EdgenasError("latency must be above zero, found '0ms'", hint="write latency 20ms")
    assert str(error) == "latency must be above zero, found '0ms'\nhint: write latency 20ms"
    assert (error.message, error.hint) == (
        "latency must be above zero, found '0ms'",
        "write latency 20ms",
    )


def test_an_error_without_a_hint_is_its_line():
    assert str(EdgenasError("no file a.json")) == "no file a.json"


def test_an_error_is_raised_and_caught_by_its_line():
    with pytest.raises(EdgenasError, match=r"^no file"):
        raise EdgenasError("no file a.json")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rpi-4", "did you mean rpi4? "),
        ("RPI4", "did you mean rpi4? "),
        ("jetson-nanoo", "did you mean jetson-nano or jetson-orin-nano? "),
        ("zzzz", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_told_the_nearest_and_where_to_look(name: str, near: str):
    error = unknown_name("device", name, names=KNOWN, listing="edgenas list devices")
    assert error.message == f"unknown device {name!r}"
    assert error.hint == f"{near}see them all with: edgenas list devices"


def test_an_unknown_name_may_be_asked_of_anything_iterable():
    error = unknown_name("space", "tiny", names=iter(()), listing="edgenas list spaces")
    assert error.hint == "see them all with: edgenas list spaces"
