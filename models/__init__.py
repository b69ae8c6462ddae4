"""The models under comparison. This package imports nothing from bench."""
