"""Code that goes with an export and runs in another server; of ours it imports `serving` alone."""
