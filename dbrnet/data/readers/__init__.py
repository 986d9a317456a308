"""Readers of datasets in their own layouts, one module for each layout; `READERS` finds them by name."""

from dbrnet.data.readers.magnetic_tile import MagneticTile
from dbrnet.data.readers.neu_seg import NeuSeg
from dbrnet.data.readers.reader import Reader
from dbrnet.data.readers.severstal import Severstal, SteelStrip

READERS: dict[str, Reader] = {
    reader.info.name: reader for reader in (SteelStrip(), NeuSeg(), MagneticTile(), Severstal())
}
