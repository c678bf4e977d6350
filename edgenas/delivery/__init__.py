"""From a request to a verified bundle: the main job, fleets, fronts and other formats."""
