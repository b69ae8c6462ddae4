"""Errors, files and intervals: what every other package may use."""
