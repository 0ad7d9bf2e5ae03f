"""How slots are said and found: the parts behind serving.slots, which is what others import."""
