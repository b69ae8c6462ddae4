"""Progress bars and the live screen."""
