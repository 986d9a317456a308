"""One module a dataset; `READERS` finds them by name."""

from dbrnet.data.readers.magnetic_tile import MagneticTile
from dbrnet.data.readers.neu_seg import NeuSeg
from dbrnet.data.readers.reader import Reader
from dbrnet.data.readers.severstal import Severstal
from dbrnet.data.readers.steel_strip import SteelStrip

READERS: dict[str, Reader] = {
    reader.about.name: reader for reader in (SteelStrip(), NeuSeg(), MagneticTile(), Severstal())
}
