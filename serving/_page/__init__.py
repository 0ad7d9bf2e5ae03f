"""The page at `/`: try a prompt, see every rung's answer, watch the service's figures."""
