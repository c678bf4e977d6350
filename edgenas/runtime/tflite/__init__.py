"""Networks as .tflite files, which LiteRT (TensorFlow Lite) runs."""
