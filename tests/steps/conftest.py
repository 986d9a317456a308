"""A store, and models to register in it, for the steps that need them."""

from tests.registry.conftest import make_model, store

__all__ = ["make_model", "store"]
