"""Images as uint8 arrays: datasets.py fetches, checks and decodes them, loader.py makes batches of them."""
