"""One file adds a runtime: the contract, a profile, a board and an export work with it."""

import ast
import json
import sys
from pathlib import Path

import pytest
from runtime_contract import RuntimeContract, int8, with_int8

from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.pack import collect_sources
from edgenas.delivery.export_request import ExportRequest
from edgenas.delivery.exporting import export
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.latency.device import Target
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import Runtime
from edgenas.space import presets

__all__ = ["int8", "with_int8"]
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=3, max_samples=3, min_seconds=0.0, rounds=1
)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setitem(runtimes.FILES, "toy", "toy_runtime:RUNTIME")
    return runtimes.get("toy")


class TestToy(RuntimeContract):
    @pytest.fixture
    def runtime(self, toy: Runtime) -> Runtime:
        return toy


@pytest.mark.slow
def test_a_space_is_profiled_with_it():
    target = Target("host", "toy", "fp32")
    plan = ProfilePlan(networks=2, further=1, visits=1, settings=QUICK)
    table = profile(presets.tiny(), target=target, plan=plan)
    assert len(table.layers) > 5
    assert len(table.networks) == 3
    assert all(timing.seconds > 0 for timing in table.layers.values())


def test_a_bundle_is_exported_for_it(tiny: Path, tmp_path: Path):
    request = SpecializeRequest(device="jetson", latency="1s", supernet=str(tiny))
    specialize(request, out=tmp_path / "bundle")
    wanted = ExportRequest(bundle=tmp_path / "bundle", to="toy", out=tmp_path / "toy")
    report = export(wanted, settings=QUICK).report
    assert set(report["files"]) == {"model.toy"}
    assert report["latency"]["runtime"] == "toy"
    assert report["latency"]["environment"]["runtime_version"]
    assert "a toy of fp32" in report["notes"]
    assert json.loads((tmp_path / "toy" / "export.json").read_text()) == report


def test_what_goes_to_a_board_for_it_is_for_old_pythons_with_the_standard_library_alone(
    toy: Runtime,
):
    texts = collect_sources(toy.part)
    assert {"toy_runtime", "edgenas.runtime.contract"} <= set(texts)
    for text in texts.values():
        tree = ast.parse(text, feature_version=(3, 8))
        for node in tree.body:
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
