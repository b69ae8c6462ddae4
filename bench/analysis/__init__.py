"""From records to comparisons and verdicts."""
