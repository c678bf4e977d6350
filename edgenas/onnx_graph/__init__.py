"""ONNX graphs: read in one way, built from plans, brought into a runtime's form, counted."""
