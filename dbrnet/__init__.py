"""DBRNet: a training pipeline for real-time segmentation of metal-surface defects.

The rooms (README: what is where) use each other downwards only, by the rules of tests/test_architecture.py;
`steps` is where parameters, files and tracking meet; `cli` is the door.
"""

import os

# Set before any library is imported, and only where the user has not: none of them phones home, and OpenMP's
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
