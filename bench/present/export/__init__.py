"""Runs for the dashboards of other programs."""
