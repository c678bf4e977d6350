"""Quantities: what is written is what is meant, and what is printed can be read again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics import units
from edgenas.basics.errors import EdgenasError

# Independent of the table in the module: what SI and IEC say.
MEANING = [
    ("20ms", "time", 0.020),
    ("250us", "time", 0.000250),
    ("800ns", "time", 8e-7),
    ("1.5s", "time", 1.5),
    ("2min", "time", 120.0),
    ("1h", "time", 3600.0),
    ("16MB", "size", 16_000_000),
    ("16MiB", "size", 16 * 1024 * 1024),
    ("512KiB", "size", 512 * 1024),
    ("5kB", "size", 5000),
    ("5KB", "size", 5000),
    ("3GB", "size", 3_000_000_000),
    ("7B", "size", 7),
    ("4M", "count", 4_000_000),
    ("0.3G", "count", 300_000_000),
    ("1B", "count", 1_000_000_000),
    ("8K", "count", 8000),
    ("8k", "count", 8000),
    ("3400000", "count", 3_400_000),
    ("50mJ", "energy", 0.05),
    ("2J", "energy", 2.0),
    ("90uJ", "energy", 9e-5),
    ("5%", "ratio", 0.05),
]


@pytest.mark.parametrize(("text", "unit", "value"), MEANING)
def test_a_quantity_means_what_the_standard_says(text: str, unit: str, value: float):
    assert units.parse(text, unit=unit, name="limit") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", [" 20ms", "20 ms ", "2e1ms", "+20ms", "20.ms", "0.02 s", "2E-2s"])
def test_one_quantity_has_many_spellings(text: str):
    assert units.parse(text, unit="time", name="latency") == pytest.approx(0.02)


positive = st.floats(min_value=1e-6, max_value=1e6)


@given(positive)
def test_any_positive_number_survives_being_written(value: float):
    assert units.parse(f"{value!r}s", unit="time", name="t") == value
    assert units.parse(f"{value!r}", unit="count", name="n") == value


@given(positive, positive)
def test_more_is_more(first: float, second: float):
    low, high = (units.parse(f"{v!r}ms", unit="time", name="t") for v in sorted([first, second]))
    assert low <= high


@pytest.mark.parametrize(
    ("text", "unit", "message", "hint"),
    [
        (
            "fast",
            "time",
            "limit must be a number with a unit (ns, us, ms, s, min, h), found 'fast'",
            "write for example limit 20ms",
        ),
        (
            "",
            "count",
            "limit must be a number with a unit (none, K, k, M, G, B), found ''",
            "write for example limit 300M",
        ),
        (
            "20",
            "time",
            "limit must be in ns, us, ms, s, min, h, found no unit in '20'",
            "write for example limit 20ms",
        ),
        (
            "20MB",
            "time",
            "limit must be in ns, us, ms, s, min, h, found the unit 'MB' in '20MB'",
            "write for example limit 20ms",
        ),
        (
            "16 mb",
            "size",
            "limit must be in B, kB, KB, MB, GB, KiB, MiB, found the unit 'mb' in '16 mb'",
            "write for example limit 16MB",
        ),
        (
            "0mJ",
            "energy",
            "limit must be above zero, found '0mJ'",
            "write for example limit 50mJ",
        ),
        ("-5%", "ratio", "limit must be above zero, found '-5%'", "write for example limit 5%"),
        (
            "1e999s",
            "time",
            "limit must be above zero, found '1e999s'",
            "write for example limit 20ms",
        ),
    ],
)
def test_what_is_no_quantity_is_refused(text: str, unit: str, message: str, hint: str):
    with pytest.raises(EdgenasError) as caught:
        units.parse(text, unit=unit, name="limit")
    assert (caught.value.message, caught.value.hint) == (message, hint)


@given(st.text(alphabet="0123456789.eE+-%mskMGB ", max_size=8), st.sampled_from(["time", "count"]))
def test_any_text_is_a_positive_number_or_refused(text: str, unit: str):
    try:
        value = units.parse(text, unit=unit, name="limit")
    except EdgenasError:
        return
    assert value > 0
    assert math.isfinite(value)


def test_the_hint_of_every_dimension_is_itself_accepted():
    for unit in ("time", "size", "count", "energy", "ratio"):
        with pytest.raises(EdgenasError) as caught:
            units.parse("?", unit=unit, name="limit")
        example = caught.value.hint.removeprefix("write for example limit ")
        assert units.parse(example, unit=unit, name="limit") > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 ms"),
        (1.234e-6, "0.00123 ms"),
        (0.000999, "0.999 ms"),
        (0.00325, "3.25 ms"),
        (0.0324, "32.40 ms"),
        (0.25, "250 ms"),
        (3.2, "3200 ms"),
    ],
)
def test_a_time_is_printed_in_milliseconds(seconds: float, text: str):
    assert units.milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999.9, "1K"), (3.4e6, "3.4M"), (999_950, "1M"), (1.284e9, "1.28G")],
)
def test_a_count_is_printed_short(value: float, text: str):
    assert units.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (512, "512 B"), (16e6, "16 MB"), (999_999, "1 MB"), (2.5e9, "2.5 GB")],
)
def test_a_size_is_printed_short(value: float, text: str):
    assert units.size(value) == text


@given(st.floats(min_value=1e-9, max_value=3600))
def test_a_printed_time_can_be_read_again(seconds: float):
    text = units.milliseconds(seconds)
    assert "e" not in text
    assert units.parse(text, unit="time", name="t") == pytest.approx(seconds, rel=0.0051)


@given(st.floats(min_value=1, max_value=1e14))
def test_a_printed_count_or_size_can_be_read_again(value: float):
    for text, unit in ((units.count(value), "count"), (units.size(value), "size")):
        assert "e" not in text
        assert units.parse(text, unit=unit, name="n") == pytest.approx(value, rel=0.0051)
