"""The built-in, generated steel strip: Severstal's layout, with its own classes and known groups."""

from dbrnet.data.dataset import ClassInfo

CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("scratch", (230, 159, 0)),
    ClassInfo("patch", (86, 180, 233)),
    ClassInfo("inclusion", (213, 94, 0)),
    ClassInfo("scale-pit", (0, 158, 115)),
)
