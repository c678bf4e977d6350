"""Training of a supernet; ``loop.py`` reads top to bottom."""

from edgenas.train.alone import train_alone
from edgenas.train.augment import augment, mixed, randaugment
from edgenas.train.course import calibration_pixels
from edgenas.train.history import History, read_history
from edgenas.train.loop import Normalisation, Progress, keep_memory, split_seed, train
from edgenas.train.runs import CHECKPOINT, METRICS, RUN, TENSORBOARD, check_out
from edgenas.train.sampling import fair
from edgenas.train.step import distillation_loss, sandwich_step
from edgenas.train.teacher import Teacher, load_teacher

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "RUN",
    "TENSORBOARD",
    "History",
    "Normalisation",
    "Progress",
    "Teacher",
    "augment",
    "calibration_pixels",
    "check_out",
    "distillation_loss",
    "fair",
    "keep_memory",
    "load_teacher",
    "mixed",
    "randaugment",
    "read_history",
    "sandwich_step",
    "split_seed",
    "train",
    "train_alone",
]
