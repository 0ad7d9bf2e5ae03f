"""A caller's account as admission gives it to the entry: what was reserved and what was charged."""


class Account:
    """Keeps the tokens that are charged now; `left_s` is what is left of its time."""

    id, tenant, key_id = "a", "tests", "0"

    def __init__(self, left_s=30.0):
        self.tokens = 0
        self.left_s = left_s

    def remaining_s(self):
        return self.left_s

    async def reserve_tokens(self, most):
        self.tokens = most

    async def correct_tokens(self, tokens):
        self.tokens = min(self.tokens, tokens)
