"""Sweeps: data sets x algorithms x test environments x trials x draws, as ordinary runs."""
