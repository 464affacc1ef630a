"""Embeddings -> answers: retrieval, sync, localization, the numbers that judge them, and the linear baseline."""
