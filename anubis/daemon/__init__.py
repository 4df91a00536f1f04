"""The daemon: the shells around the sans-IO machines, and the order in which things happen.

`main` assembles; `operations` does what people ask of this host, `responding` what other hosts
ask, `leases` what time asks. They act through `control_plane` and `production`.
"""
