"""Tensors to tokens to embeddings: the models, their checkpoints, and the layouts that others published."""
