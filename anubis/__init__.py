"""Anubis, the on-demand gatekeeper that WireGuard lacks.

This package is the house; `docs/architecture.md` is its floor plan. Importing it costs nothing:
each room is imported by name where it is used.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
