"""A trained network as a small HTTP service, with a page to try it on."""
