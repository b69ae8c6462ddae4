"""What is to be done, as frozen data: standard library only."""
