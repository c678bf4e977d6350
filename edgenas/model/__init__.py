"""Networks with weights: modules, the supernet, its folder, calibration and the ONNX export."""
