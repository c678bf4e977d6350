"""Pages and pictures for people, made from the files of a bundle, a fleet, a front or a run."""
