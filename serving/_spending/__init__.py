"""What requests cost: prices, budgets that fail closed, sums per tenant and rung."""
