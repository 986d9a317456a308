"""PyTorch: eager, compiled, or as a recorded CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

from dbrnet.inference.export import DeployedModel
from dbrnet.inference.runtimes.base import Answer, Images, Logits, Mask, NotAvailableError, check_images
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.provenance import available_cores

Outputs = tuple[Tensor, Tensor, Tensor]  # mask, confidence, logits
Forward = Callable[[Tensor], Outputs]


class TorchModel:
    """A network in PyTorch, with the same input and outputs as the exported file.

    `mode`: "eager", "compiled" (torch.compile) or "cudagraph" (recorded once for each shape, then replayed; needs a
    GPU). `threads` and full float32 on a GPU are global settings of PyTorch, so they hold for the whole process.
    Raises `NotAvailableError` for "cudagraph" without a GPU.
    """

    def __init__(self, model: DBRNet, meta: ModelMeta, mode: str = "eager", threads: int | None = None) -> None:
        require_mode(mode)
        self.runtime = f"pytorch-{mode}"
        self.precision = "fp32"
        self.threads = threads or available_cores()
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = False
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.classes = meta.classes
        self.metadata: dict[str, str] = {}
        deployed = DeployedModel(model, meta).to(self.device)
        self._forward: Forward = deployed
        if mode == "compiled":
            self._forward = torch.compile(deployed)
        elif mode == "cudagraph":
            self._forward = _Recorded(deployed)

    @torch.inference_mode()
    def predict(self, images: Images) -> Answer:
        """See `Model.predict`."""
        check_images(images)
        mask, confidence, _ = self._forward(torch.from_numpy(images).to(self.device))
        return mask.cpu().numpy(), confidence.cpu().numpy()  # .cpu() waits for the device

    @torch.inference_mode()
    def predict_with_logits(self, images: Images) -> tuple[Mask, Logits]:
        """See `Model.predict_with_logits`."""
        check_images(images)
        mask, _, logits = self._forward(torch.from_numpy(images).to(self.device))
        return mask.cpu().numpy(), logits.cpu().numpy()


def require_mode(mode: str) -> None:
    """Raise `NotAvailableError` where PyTorch cannot run in `mode` here."""
    if mode == "cudagraph" and not torch.cuda.is_available():
        raise NotAvailableError("pytorch-cudagraph is not available: PyTorch finds no CUDA device here")


class _Recorded:
    """A network recorded as one CUDA graph per shape."""

    def __init__(self, network: Forward) -> None:
        self._network = network
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Outputs]] = {}

    def __call__(self, images: Tensor) -> Outputs:
        if images.shape not in self._graphs:
            inputs = images.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries must initialise and choose algorithms before the recording
                for _ in range(3):
                    self._network(inputs)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._network(inputs)
            self._graphs[images.shape] = graph, inputs, outputs
        graph, inputs, outputs = self._graphs[images.shape]
        inputs.copy_(images)
        graph.replay()
        return outputs
