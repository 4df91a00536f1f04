"""Coverage-guided fuzzing: what reads what others wrote, each with what must hold of any input.

`targets` has one module for each reader, `corpus` the inputs that are kept for each. `python -m
tests.fuzz` searches for new ones with atheris; `test_corpus` replays the kept ones without it.
"""
