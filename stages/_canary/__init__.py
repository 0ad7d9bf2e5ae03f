"""What stages/canary.py is made of: the sequential test, the verdict, the services' series."""
