"""TensorRT's own tool, ``trtexec``, as a clock: on a board over ssh, or here."""
