"""Answers that were given before, kept in memory, Redis or an object store (docs/caches.md)."""
