"""How good networks are: measured on images, and predicted for those that were not measured."""
