"""The files that an administrator edits: their grammar, their values, and what is wrong with them.

`docs/configuration.md` is their reference. Reads and never writes, but for `setup_host`.
"""
