"""Several batches and several processes make one step."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_train import RECIPE, metrics
from torch import Tensor
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.saved import load_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny
from edgenas.training.loop import train
from edgenas.training.recipe import Recipe
from edgenas.training.runs import CHECKPOINT
from edgenas.training.step import TrainingBatch, sandwich_step

PROCESS = r"""
import dataclasses, sys
sys.path.insert(0, "tests")
import numpy as np
import torch
torch.set_num_threads(1)
from pathlib import Path
from unittest.mock import patch
from test_parallel import RECIPE, SHARED_OUT, tiny, toy_images
from edgenas.model import processes as parallel
from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.model.supernet import Supernet
from edgenas.training.loop import train

recipe = dataclasses.replace(RECIPE, **SHARED_OUT)
with parallel.processes("cpu"):
    assert parallel.world() == 2
    toys = toy_images(60)
    trained = train(tiny(), toys, recipe=recipe, out=Path(sys.argv[1]))
    # Networks are shared out, and each process gets all accuracies, in order.
    space = trained.supernet.space
    drawn = space.sample(1, rng=np.random.default_rng(0), by="gene")
    archs = [space.largest(), space.smallest(), *space.decode(drawn)]
    given = {"images": toys, "calibration": toys.pixels[:16], "split": "test"}
    given["preprocessing"] = trained.preprocessing
    with patch.object(Supernet, "extract", autospec=True, side_effect=Supernet.extract) as extract:
        found = parallel.share_out(
            archs, lambda mine: evaluate_archs(trained.supernet, mine, **given)
        )
    assert extract.call_count == (2, 1)[parallel.rank()], extract.call_count
    assert found == list(evaluate_archs(trained.supernet, archs, **given)), found
    assert len({accuracy.value for accuracy in found}) > 1, found
# A thread of gloo that outlives its group may end the process with SIGABRT.
tasks = Path("/proc/self/task")
names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []
assert not any("gloo" in name for name in names), names
"""

# 20 steps: 48 training images, 16 a step.
SHARED_OUT = {"epochs": 7, "batch": 8, "mixup": 0.2, "sampling": "best-up"}


def torchrun(script: Path, *words: Path) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return subprocess.run(
        [sys.executable, *command, script, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(tmp_path: Path):
    toys, one, two = toy_images(60), tmp_path / "one", tmp_path / "two"
    recipe = dataclasses.replace(RECIPE, **SHARED_OUT, accumulate=2)
    trained = train(tiny(), toys, recipe=recipe, out=one)
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    done = torchrun(script, two)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [load_tensors(out / CHECKPOINT) for out in (one, two)]
    for name, parameter in trained.supernet.named_parameters():
        assert torch.equal(ends[0][f"model.{name}"], parameter)
        torch.testing.assert_close(ends[1][f"model.{name}"], parameter, rtol=0, atol=1e-6)
    lines = [metrics(out) for out in (one, two)]
    assert lines[0][-1]["step"] == 21
    for first, second in zip(*lines, strict=True):
        assert first.keys() == second.keys()
        if "losses" in first:
            assert second["losses"] == pytest.approx(first["losses"], abs=1e-5)
    assert json.loads((two / "run.json").read_text())["processes"] == 2
    # A run belongs to its number of processes.
    with pytest.raises(EdgenasError, match=r"recipe.accumulate of the run in .* is 1, now it is 2"):
        train(tiny(), toys, recipe=recipe, out=two, resume=True)


REFUSED = r"""
import sys, time
from edgenas.model import processes as parallel
from edgenas.basics.errors import EdgenasError

try:
    with parallel.processes("cpu"):
        if parallel.rank() == 1:
            raise EdgenasError("only here is no image", hint="look for it")
        time.sleep(100)
except EdgenasError:
    sys.exit(2)  # and not a word, as the command line does in all processes but the first
"""


@pytest.mark.slow
def test_what_one_process_alone_has_met_is_told(tmp_path: Path):
    script = tmp_path / "process.py"
    script.write_text(REFUSED)
    done = torchrun(script)
    assert done.returncode == 1
    root = done.stderr.partition("Root Cause")[2]
    assert "only here is no image" in root
    assert "look for it" in root


def test_a_step_of_two_batches_has_the_mean_of_their_gradients():
    space, toys = tiny().with_classes(3), toy_images(24)
    preprocessing = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    archs = [space.largest(), space.smallest()]
    halves = list(zip(toys.pixels.split(12), toys.labels.split(12), strict=True))

    def gradients(batches, parts: int) -> dict[str, Tensor]:
        supernet = Supernet(space, seed=5)
        for pixels, labels in batches:
            sandwich_step(
                supernet,
                archs,
                TrainingBatch(pixels=pixels, labels=labels),
                recipe=Recipe(),
                preprocessing=preprocessing,
                parts=parts,
            )
        return {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}

    both, first, second = gradients(halves, 2), gradients(halves[:1], 1), gradients(halves[1:], 1)
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, (first[name] + second[name]) / 2, rtol=1e-4, atol=1e-6)
