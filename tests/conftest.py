"""What every test gets: a world of its own, and a reason when something it needs is not there."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

# Two slow cores run the tests as well as a fast machine does: no deadlines. CI repeats itself.
settings.register_profile(
    "edgenas",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("edgenas")


def why_no_gpu() -> str:
    """The reason why the tests marked ``gpu`` cannot run here, or an empty string."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU here"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and (reason := why_no_gpu()):
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep the tests away from the user's cache, the user's data folder and the machine lock."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_CACHE", str(folder / "cache"))
        patch.setenv("XDG_DATA_HOME", str(folder / "share"))
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        patch.delenv("EDGENAS_PATH", raising=False)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that the project may read but not ship; skips where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout")
    return folder
