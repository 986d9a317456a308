"""A source in a real layout, to fetch."""

from tests.data.conftest import neu_source, severstal_source, tile_source

__all__ = ["neu_source", "severstal_source", "tile_source"]
