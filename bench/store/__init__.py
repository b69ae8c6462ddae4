"""Records on disk and the CSV files derived from them."""
