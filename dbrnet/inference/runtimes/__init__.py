"""The runtimes that a trained network can run in, by name; `registry` opens them.

Light on purpose: `config` reads the names to check params.yaml, and must not load the runtimes' libraries.
"""

from typing import Literal, get_args

RuntimeName = Literal[
    "pytorch-eager",
    "pytorch-compiled",
    "pytorch-cudagraph",
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
