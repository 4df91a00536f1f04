"""What is installed, under a real systemd, in the virtual machine, where `make` runs this.

`make test-systemd`: the machine is a laptop on which Anubis was installed as the README says
(`prepare`). `make test-packages`: a host on which nothing is installed yet (`bare`). The house that
it connects to is a network namespace in it, with a daemon of its own.
"""
