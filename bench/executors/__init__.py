"""Engines that execute runs. local.py: one child process a run, one after the other."""
