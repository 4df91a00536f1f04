"""A virtual machine with Debian's kernel, for what the host's kernel can't do or must not suffer.

`python -m tests.machine -- COMMAND` runs a command in it, and `Machine(…).run([…])` does so from
Python. The guest sees every file of the host as it is; what it writes is lost with it, except in
directories that it was given. Needs what `make machine` prepares.
"""

from tests.machine.machine import Machine, MachineFailed

__all__ = ["Machine", "MachineFailed"]
