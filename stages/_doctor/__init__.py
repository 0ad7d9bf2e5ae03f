"""What this machine can do for the chosen settings, before any work starts."""
