"""The vectors of the protocol and what makes them."""
