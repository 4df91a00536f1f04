"""The service under a real systemd, in the virtual machine, where `make test-systemd` runs this.

The machine is a laptop on which Anubis was installed as the README says (`prepare`). The house that
it connects to is a network namespace in it, with a daemon of its own.
"""
