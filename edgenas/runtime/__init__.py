"""Runtimes: what turns an ONNX graph into something that runs. One file for each."""
