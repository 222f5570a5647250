"""Plots of profiles, traces and load tests; the only place of matplotlib."""
