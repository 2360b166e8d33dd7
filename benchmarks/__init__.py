"""Measured against the figures that matter: each module is a script with --help; `make bench` runs them all."""
