"""Measurements: each module prints figures that the documents give."""
