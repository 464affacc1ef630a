"""Embeddings -> answers: retrieval, sync, localization, classification, probes; their numbers and baselines."""
