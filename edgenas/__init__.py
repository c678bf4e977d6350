"""Hardware-aware deployment optimizer for edge targets."""

import os

# ONNX Runtime 1.29 and later tells Microsoft about models, their names and hashes among it, unless
# this is set before it is loaded; it also writes to the home folder and starts threads for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
