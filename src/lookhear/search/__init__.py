"""Embeddings -> moments: an index of media files, and the search in it."""
