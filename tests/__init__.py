"""Tests of Anubis."""
