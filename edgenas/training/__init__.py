"""Training of supernets and of single networks."""
