"""What building, testing and packaging need beside the Makefile."""
