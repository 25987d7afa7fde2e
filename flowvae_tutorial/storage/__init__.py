"""Files: written whole, read with care, downloaded once."""
