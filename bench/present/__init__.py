"""Text, charts, the report page and the screen."""
