"""Statistics of drift, what they are taken of, and how the verdict is shown.

Pure: permuting, and on it classifier, mmd and two_samples; multiple, and on it verdict.
"""
