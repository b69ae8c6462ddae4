"""The driver: plans a sweep and hands its tasks to an executor."""
