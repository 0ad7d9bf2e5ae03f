"""The report's parts: what was read, what is told of it, and how it is drawn."""
