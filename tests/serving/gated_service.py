"""A service whose model answers when a line comes on standard input: run as a program.

    python gated_service.py PLACES [NAME=VALUE of dbrnet.serving.upload or .server ...]

Before each answer it prints "asked HEIGHTxWIDTH". The line "fail" makes it raise, any other answers.
"""

import logging
import sys

import numpy as np

from dbrnet.data.dataset import ClassInfo
from dbrnet.inference.runtimes.base import Answer, Images, Model
from dbrnet.serving import server, upload
from dbrnet.serving.app import create_app
from dbrnet.serving.worker import Worker


class GatedModel(Model):
    runtime, precision, device, threads = "gated", "fp32", "cpu", 1
    classes: tuple[ClassInfo, ...] = (ClassInfo("background", (0, 0, 0)), ClassInfo("crack", (230, 60, 40)))
    metadata: dict[str, str] = {}  # noqa: RUF012
    warm = False

    def predict(self, images: Images) -> Answer:
        if self.warm:
            print(f"asked {images.shape[1]}x{images.shape[2]}", flush=True)
            if sys.stdin.readline() == "fail\n":
                raise RuntimeError("a secret of the model's")
        self.warm = True
        mask = np.ones(images.shape[:3], np.uint8)
        return mask, mask.astype(np.float32)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dbrnet").setLevel(logging.INFO)
    for setting in sys.argv[2:]:
        name, value = setting.split("=")
        module = upload if hasattr(upload, name) else server
        setattr(module, name, float(value))
    listener = server.bind("127.0.0.1", 0)
    worker = Worker(GatedModel, int(sys.argv[1]))
    app = create_app(worker, model_name="gated", max_bytes=2**20, hosts=["*"])
    server.run(app, worker, listener)
