"""The device and its host."""
