"""Latency tables: round trips, sums against the walk, merging, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import rows_of, seeds, spaces

from edgenas.basics.errors import EdgenasError
from edgenas.latency.device import Target
from edgenas.latency.source import EstimatedSource
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Timing, merge, mismatches
from edgenas.latency.table_file import find_table, load_table, save_table, table_path
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan
from edgenas.space.presets import tiny
from edgenas.space.space import Space

DATA = Path(__file__).parent / "data"
TARGET = Target("board", "onnxruntime", "fp32")
HERE = {"cpu": "A", "gpu": None, "power_mode": "MAXN", "kernel": "6.1"}


def fake_seconds(layer: Layer) -> float:
    """Some function of a layer that tells all of them apart."""
    return 1e-6 * (1 + sum(ord(c) * (i + 1) for i, c in enumerate(str(layer))) % 9973)


def table_of(space: Space, timed: int = 0, **fields: Any) -> LatencyTable:
    archs = space.decode(rows_of(space, seed=0, n=timed)) if timed else []
    given = {
        "target": TARGET,
        "provenance": "measured",
        "runtime_version": "1.31.1",
        "environment": HERE,
        "method": "isolated layers",
        "date": "2025-01-31",
        "layers": {
            layer: Timing(
                median=fake_seconds(layer),
                p10=fake_seconds(layer) * 0.9,
                p90=fake_seconds(layer) * 1.1,
                n=25,
                wall_p50=fake_seconds(layer),
                wall_p95=fake_seconds(layer) * 1.5,
            )
            for layer in layers(space)
        },
        "networks": tuple(
            MeasuredNetwork(
                space=space.name,
                classes=space.classes,
                arch=arch,
                timing=Timing(
                    median=1.1 * sum(fake_seconds(layer) for _, layer in plan(space, arch)),
                    n=30,
                    noisy=i == 0,
                ),
            )
            for i, arch in enumerate(archs)
        ),
    }
    return LatencyTable(**{**given, **fields})


@settings(max_examples=25)
@given(space=spaces(), seed=seeds)
def test_compiled_sums_equal_the_walk(space: Space, seed: int):
    rows = rows_of(space, seed=seed)
    walked = [
        sum(fake_seconds(layer) for _, layer in plan(space, arch)) for arch in space.decode(rows)
    ]
    assert table_of(space).compile(space)(rows) == pytest.approx(walked, rel=1e-12)
    model = EstimatedSource(target=TARGET, layer_seconds=fake_seconds, constant=0.25)
    assert model.compile(space)(rows) == pytest.approx([0.25 + w for w in walked], rel=1e-12)
    assert model.provenance == "estimated"


@settings(max_examples=15)
@given(space=spaces(), networks=st.integers(0, 3))
def test_a_table_survives_the_disk(space: Space, networks: int, tmp_path_factory: Any):
    path = tmp_path_factory.mktemp("tables") / "x" / "table.json"
    table = table_of(space, networks)
    save_table(table, path)
    read = load_table(path)
    assert replace(read, networks=()) == replace(table, networks=())
    assert sorted(map(repr, read.networks)) == sorted(map(repr, table.networks))
    again = path.read_bytes()
    save_table(read, path)
    assert path.read_bytes() == again


def test_a_table_written_by_the_first_version_still_opens():
    table = load_table(DATA / "latency-table-1.json")
    assert (table.target, len(table.layers), len(table.networks)) == (TARGET, 36, 3)
    assert table.compile(tiny())(rows_of(tiny(), seed=0)).min() > 0


def test_one_entry_a_line_sorted(tmp_path: Path):
    path = tmp_path / "table.json"
    table = table_of(tiny(), 2)
    save_table(table, path)
    lines = path.read_text().splitlines()
    keys = [line.split('"')[1] for line in lines if line.startswith('  "')]
    assert keys == sorted(str(layer) for layer in table.layers)
    assert sum(line.startswith('  {"space": "tiny"') for line in lines) == 2


def test_published_means_and_entries_of_one_resolution(tmp_path: Path):
    space = tiny()
    first = layers(space)[0]
    table = table_of(
        space,
        provenance="published",
        layers={layer: Timing(mean=1e-3, std=0.0, n=100) for layer in layers(space)},
        layers_at={(16, first): Timing(mean=5e-3, n=10)},
    )
    save_table(table, tmp_path / "t.json")
    assert load_table(tmp_path / "t.json") == table
    rows = space.encode([space.smallest(), space.largest()])
    walked = [
        sum(
            5e-3 if arch.resolution == 16 and layer == first else 1e-3
            for _, layer in plan(space, arch)
        )
        for arch in space.decode(rows)
    ]
    assert table.compile(space)(rows) == pytest.approx(walked)


def test_a_miss_names_the_layer_and_the_command():
    space = tiny()
    table = table_of(space)
    gone = layers(space)[3]
    poor = replace(table, layers={k: v for k, v in table.layers.items() if k != gone})
    with pytest.raises(EdgenasError) as caught:
        poor.compile(space)
    assert f"lacks 1 of {len(layers(space))} layers of space tiny, first {gone}" in str(
        caught.value
    )
    assert "edgenas profile --device board --space tiny --runtime onnxruntime" in str(caught.value)
    with pytest.raises(EdgenasError, match="has no layer mbconv"):
        poor.seconds(gone)
    published = replace(poor, provenance="published")
    with pytest.raises(EdgenasError, match="a published table cannot be filled here"):
        published.compile(space)


def test_the_resolutions_that_a_table_covers():
    space = tiny()
    small = space.restrict(resolution=(12,))
    assert table_of(space).covered_resolutions(space) == (12, 16)
    assert table_of(small).covered_resolutions(space) == (12,)
    assert replace(table_of(small), layers={}).covered_resolutions(space) == ()
    assert table_of(small).covered_resolutions(small) == (12,)


def test_sums_stand_beside_measured_networks():
    space = tiny()
    table = table_of(space, 4)
    found = table.network_sums(space)
    assert len(found) == 4
    for network, total, measured in found:
        (row,) = table.compile(space)(space.encode([network.arch]))
        assert total == pytest.approx(row)
        assert measured == pytest.approx(1.1 * row)
    assert table.network_sums(space, statistic="wall_p95") == []
    assert table.network_sums(space.with_classes(3)) == []
    # A narrower space is the same space: the networks still calibrate it.
    assert len(table.network_sums(space.restrict(resolution=(12,)))) == 4


def test_the_newer_table_wins_where_both_know_a_layer():
    space = tiny()
    old = table_of(space, 3)
    first, second = layers(space)[:2]
    new = table_of(
        space,
        layers={first: Timing(median=9.0, n=1)},
        networks=(replace(old.networks[1], timing=Timing(median=7.0, n=1)),),
        environment={**HERE, "kernel": "6.2"},
        date="2025-02-01",
    )
    both = merge(old, new)
    assert both.layers[first].seconds == 9.0
    assert both.layers[second] == old.layers[second]
    times = [network.timing.seconds for network in both.networks]
    assert times == [old.networks[0].timing.seconds, 7.0, old.networks[2].timing.seconds]
    assert both.date == "2025-02-01"
    assert both.environment["kernel"] == "6.2"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"target": replace(TARGET, threads=2)}, "target.threads: 1 and 2"),
        ({"target": replace(TARGET, precision="int8")}, "target.precision: 'fp32' and 'int8'"),
        ({"provenance": "published"}, "provenance: 'measured' and 'published'"),
        ({"runtime_version": "1.32"}, "runtime_version: '1.31.1' and '1.32'"),
        ({"environment": {**HERE, "cpu": "B"}}, "environment.cpu: 'A' and 'B'"),
        ({"environment": {**HERE, "power_mode": "15W"}}, "environment.power_mode"),
    ],
)
def test_tables_of_different_things_do_not_merge(fields: dict[str, Any], told: str):
    one, other = table_of(tiny()), table_of(tiny(), **fields)
    with pytest.raises(EdgenasError) as caught:
        merge(one, other)
    assert told in str(caught.value)


def test_a_driver_is_recorded_but_need_not_match():
    one = table_of(tiny(), environment={"gpu": "Orin, 540.2"})
    assert not mismatches(one, table_of(tiny(), environment={"gpu": "Orin, 541.0"}))
    assert mismatches(one, table_of(tiny(), environment={"gpu": "Xavier, 540.2"}))


def test_the_users_own_table_is_found_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert find_table(TARGET) is None
    monkeypatch.setenv("EDGENAS_PATH", str(tmp_path))
    given = table_path(TARGET, root=tmp_path / "latency_tables")
    assert given.name == "onnxruntime-fp32-t1-b1.json"
    save_table(table_of(tiny()), given)
    assert find_table(TARGET) == given
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    save_table(table_of(tiny()), table_path(TARGET))
    assert find_table(TARGET) == table_path(TARGET)


def _entry(value: dict[str, Any]) -> dict[str, Any]:
    return next(iter(value["layers"].values()))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def twice(value: dict[str, Any]) -> dict[str, Any]:
    """A layer again, its parts in another order."""
    kind, _, parts = next(iter(value["layers"])).rstrip(")").partition("(")
    return {f"{kind}({','.join(reversed(parts.split(',')))})": _entry(value)}


def at(value: dict[str, Any], resolution: str) -> dict[str, Any]:
    return {f"{next(iter(value['layers']))}@{resolution}": _entry(value)}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda v: v.pop("method"), "the field 'method' is missing"),
        (lambda v: v.update(extra=1), "unknown field 'extra'"),
        (lambda v: v.update(schema="edgenas.latency-table/2"), "must have schema"),
        (lambda v: v.update(provenance="guessed"), "provenance must be one of measured"),
        (lambda v: v.update(date=3), "date must be a text"),
        (lambda v: v.update(runtime_version=3), "runtime_version must be a text"),
        (lambda v: v.update(layers=[]), "layers must be an object"),
        (lambda v: v.update(networks={}), "networks must be a list"),
        (lambda v: v["target"].update(threads=0), "target.threads must be at least 1"),
        (lambda v: v["target"].update(runtime=1), "target.runtime must be a text"),
        (lambda v: v["layers"].update({"pool()": {"median": 1.0, "n": 1}}), "layer must read like"),
        (lambda v: _entry(v).update(median=-1.0), "median must be above 0 seconds"),
        (lambda v: _entry(v).update(p10="fast"), "p10 must be a number"),
        (lambda v: _entry(v).update(mean=1.0), "either median or mean must be given"),
        (lambda v: _entry(v).update(noisy="no"), "noisy must be true or false"),
        (lambda v: _entry(v).update(n=1.5), "n must be an integer"),
        (lambda v: _entry(v).update(n=-1), "n must be at least 0"),
        (lambda v: _entry(v).update(n=10**400), "found an integer of 1329 bits"),
        (lambda v: _entry(v).update(median=1e9), "median must be at most 1e+06 seconds"),
        (lambda v: v["environment"].update(cpu=nested(100)), "must be no deeper than 16 levels"),
        (lambda v: v["layers"].update(twice(v)), "this layer is there twice"),
        (lambda v: v["layers"].update({"conv(inputs=3)@0": {"mean": 1, "n": 1}}), "is incomplete"),
        (lambda v: v["layers"].update(at(v, "0")), "from 1 to 16384 pixels, found '0'"),
        (lambda v: v["layers"].update(at(v, "9" * 900)), "from 1 to 16384 pixels, found '999"),
        (lambda v: v["networks"][0].update(classes=0), "networks[0]: classes must be at least 1"),
        (lambda v: v["networks"][0].update(p90=0), "networks[0]: p90 must be above 0 seconds"),
        (lambda v: _entry(v).update(note="x"), "unknown field 'note'"),
        (lambda v: v["networks"][0].pop("arch"), "the field 'arch' is missing"),
        (lambda v: v["networks"][0].update(space=1), "space must be a text"),
        (lambda v: v["networks"][0]["arch"].pop("stages"), "the field 'stages' is missing"),
    ],
)
def test_a_damaged_table_is_refused_by_name(damage: Any, told: str, tmp_path: Path):
    path = tmp_path / "table.json"
    save_table(table_of(tiny(), 1), path)
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(EdgenasError) as caught:
        load_table(path)
    assert told in str(caught.value)


def test_a_truncated_table_is_refused(tmp_path: Path):
    path = tmp_path / "table.json"
    save_table(table_of(tiny()), path)
    whole = path.read_text()
    for end in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_text(whole[:end])
        with pytest.raises(EdgenasError, match="is damaged"):
            load_table(path)


def test_the_typical_time_is_the_median_or_else_the_mean():
    assert Timing(median=1.0, n=5, wall_p95=3.0).seconds == 1.0
    assert Timing(mean=2.0, n=5).statistic("typical") == 2.0
    assert Timing(median=1.0, n=5, wall_p95=3.0).statistic("wall_p95") == 3.0
    assert Timing(median=1.0, n=5).statistic("wall_p50") is None
