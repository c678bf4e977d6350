"""Search: the problem, its limits, and the strategies that look for the best network."""
