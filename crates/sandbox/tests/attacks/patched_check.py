# Breach: a test of the program's own is run in place of the dataset's.
METADATA = {}


def check(candidate):
    return True


def candidate(x):
    return x * x
