"""Sentence vectors without torch: an ONNX embedder, and a cache of its vectors."""
