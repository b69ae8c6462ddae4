"""What is drawn: from stores to charts (build), from charts to papers (static) and to pages (interactive)."""
