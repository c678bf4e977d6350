"""What several specialisations have in common: everything is read, fitted or profiled once."""

from dataclasses import dataclass, field

from edgenas.accuracy.measured import predictor_of
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.delivery.images import Material, material
from edgenas.delivery.latency import Latency, latency_of, profiled_latency
from edgenas.delivery.request import Request, Tell
from edgenas.latency.device import Device, Target
from edgenas.latency.table import Statistic
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet
from edgenas.profiling.work import Clock


@dataclass(slots=True)
class Shared:
    """Supernets, accuracy predictors, images and latencies, each made when first asked for."""

    supernets: dict[str, TrainedSupernet] = field(default_factory=dict)
    predictors: dict[str, AccuracyPredictor] = field(default_factory=dict)
    materials: dict[tuple[object, ...], Material] = field(default_factory=dict)
    latencies: dict[tuple[object, ...], Latency] = field(default_factory=dict)

    def supernet(self, name: str) -> TrainedSupernet:
        """A supernet by name or folder. Raises EdgenasError as ``load_supernet``."""
        if name not in self.supernets:
            self.supernets[name] = load_supernet(find_supernet(name))
        return self.supernets[name]

    def predictor(self, name: str) -> AccuracyPredictor:
        """The accuracy predictor of a supernet. Raises EdgenasError as ``predictor_of``."""
        if name not in self.predictors:
            self.predictors[name] = predictor_of(self.supernet(name))
        return self.predictors[name]

    def material(self, request: Request, tell: Tell) -> Material:
        """The images of a request. Raises EdgenasError as ``images.material``."""
        key = (
            request.supernet,
            request.data,
            request.test,
            request.skip_bad_images,
            request.trains,
            request.learns and request.strategy,
        )
        if key not in self.materials:
            self.materials[key] = material(request, self.supernet(request.supernet), tell)
        return self.materials[key]

    def latency(
        self,
        supernet: str,
        *,
        device: Device,
        target: Target,
        statistic: Statistic = "typical",
        clock: Clock | None = None,
        tell: Tell | None = None,
    ) -> Latency:
        """The latency of a target.

        Args:
            supernet: whose networks.
            device: of the target.
            target: what latencies are of.
            statistic: see ``profiled_latency``.
            clock: where the device is timed; see ``latency_of``.
            tell: profiles a device that can be timed where it was not, and is told; None: looks.

        Raises:
            EdgenasError: as ``latency_of``.
        """
        key = (supernet, device.path, target, statistic, clock and getattr(clock, "place", True))
        if key not in self.latencies:
            space = self.supernet(supernet).supernet.space
            if tell is None:
                found = latency_of(
                    space, device=device, target=target, statistic=statistic, clock=clock
                )
            else:
                found = profiled_latency(
                    space,
                    device=device,
                    target=target,
                    statistic=statistic,
                    clock=clock,
                    tell=tell,
                )
            self.latencies[key] = found
        return self.latencies[key]
