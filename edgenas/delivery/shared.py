"""What several specialisations have in common: each input is read, fitted or profiled once."""

from edgenas.accuracy.measured import load_predictor
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.progress import Progress
from edgenas.delivery.images import ImageSets, read_image_sets, with_fit
from edgenas.delivery.latency import TargetLatency, find_latency, find_or_profile_latency
from edgenas.delivery.request import SpecializeRequest
from edgenas.latency.device import Device, Target
from edgenas.latency.table import Statistic
from edgenas.model.importing import find_start
from edgenas.model.saved import TrainedSupernet, load_supernet
from edgenas.profiling.work import Clock


class SharedInputs:
    """Supernets, accuracy predictors, images and latencies, each made when first asked for."""

    def __init__(self) -> None:
        self._supernets: dict[str, TrainedSupernet] = {}
        self._predictors: dict[str, AccuracyPredictor] = {}
        self._images: dict[tuple[object, ...], ImageSets] = {}
        self._latencies: dict[tuple[object, ...], TargetLatency] = {}

    def supernet(self, name: str) -> TrainedSupernet:
        """A supernet by name or folder, or a published network. Raises as ``load_supernet``."""
        if name not in self._supernets:
            self._supernets[name] = load_supernet(find_start(name))
        return self._supernets[name]

    def predictor(self, name: str) -> AccuracyPredictor:
        """The accuracy predictor of a supernet. Raises EdgenasError as ``load_predictor``."""
        if name not in self._predictors:
            self._predictors[name] = load_predictor(self.supernet(name))
        return self._predictors[name]

    def images(self, request: SpecializeRequest, progress: Progress) -> ImageSets:
        """The images of a request. Raises EdgenasError as ``read_image_sets``."""
        key = (
            request.supernet,
            request.data,
            request.test,
            request.skip_bad_images,
            request.trains,
            request.fine_tunes_integers,
            request.learns and request.strategy,
            request.fit,
            request.arch,
        )
        if key not in self._images:
            trained = with_fit(self.supernet(request.supernet), request.fit)
            self._images[key] = read_image_sets(request, trained, progress=progress)
        return self._images[key]

    def latency(
        self,
        supernet: str,
        *,
        device: Device,
        target: Target,
        statistic: Statistic = "typical",
        clock: Clock | None = None,
        progress: Progress | None = None,
        energy: bool = False,
    ) -> TargetLatency:
        """The latency of a target.

        Args:
            supernet: whose networks.
            device: of the target.
            target: what latencies are of.
            statistic: see ``find_latency``.
            clock: where the device is timed; see ``find_latency``.
            progress: where it is given, a device that can be timed is profiled if it was not yet.
            energy: whether the energy of networks must be known too.

        Raises:
            EdgenasError: as ``find_latency``.
        """
        place = clock and getattr(clock, "place", True)
        key = (supernet, device.path, target, statistic, place, energy)
        if key not in self._latencies:
            space = self.supernet(supernet).supernet.space
            if progress is None:
                latency = find_latency(
                    space, device=device, target=target, statistic=statistic, clock=clock
                )
            else:
                latency = find_or_profile_latency(
                    space,
                    device=device,
                    target=target,
                    statistic=statistic,
                    clock=clock,
                    progress=progress,
                    energy=energy,
                )
            self._latencies[key] = latency
        return self._latencies[key]
