"""Zero-cost proxies: scores of untrained networks that may stand in for accuracy."""
