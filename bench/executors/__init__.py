"""Who works: child processes, this machine, Ray, SLURM; one protocol (protocol.py)."""
