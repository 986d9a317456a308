"""DBRNet: a training pipeline for real-time segmentation of metal-surface defects.

The rooms, from the bottom up: `data`, `models`, `training`, `evaluation`, `deployment` and `registry` know
nothing of each other's files; `steps` is where parameters, files and tracking meet; `cli` is the door.
"""

import os

# Dependencies that would phone home are told not to, before any of them is imported.
for _switch, _value in {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}.items():
    os.environ.setdefault(_switch, _value)

__version__ = "0.1.0"
