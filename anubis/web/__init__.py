"""What a phone sees of its gateway: one page with one button, and the same for programs.

Everything here is pure: a request in, an answer out. Refuses to know sockets, and what up and down
are.
"""
