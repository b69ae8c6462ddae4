"""Images as uint8 arrays: datasets.py fetches, checks and decodes them, augment.py and loader.py make batches."""
