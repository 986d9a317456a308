"""DBRNet: a training pipeline for real-time segmentation of metal-surface defects.

The rooms import each other downwards only (docs/architecture.md; tests/test_architecture.py has the order).
The public Python API is `open_dataset`, `load_model` and `read_image`.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbrnet.api import load_model, open_dataset, read_image

__all__ = ["__version__", "load_model", "open_dataset", "read_image"]

# Set before any library is imported, and only where the user has not: telemetry is disabled, and OpenMP's
# waiting threads spin for a moment only. (Spinning long, they take a shared machine's cores from those that
# work: training ran up to ten times as slow. Not spinning at all costs a quarter on a quiet one.)
for _switch, _value in {
    "GOMP_SPINCOUNT": "20000",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(2**27),  # an image that declares more is refused before it is decoded
    "OPENCV_LOG_LEVEL": "SILENT",  # of a damaged file one line is said, and it is ours
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    # A file that calls itself a video may be a playlist of other files or addresses: none is followed.
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file|format_whitelist;mov,avi,matroska",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "NNCF_CI": "1",  # its word for: no telemetry
}.items():
    os.environ.setdefault(_switch, _value)

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """The public API, imported at first use: `import dbrnet` itself loads no library."""
    if name in __all__:
        from dbrnet import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
