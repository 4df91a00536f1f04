"""One module for each thing that reads what others wrote.

Its docstring says what must hold, `run` tries one input and raises where it does not, `seeds`
gives inputs that are in order, and `TOKENS` words that are worth trying; where there are none, an
input is no text. No input is longer than `MAX_LENGTH` bytes; `RUNS` is how many the short search
tries, some five seconds' worth.
"""
