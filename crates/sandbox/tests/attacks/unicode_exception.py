# Breach: an exception that cannot be made from a text stops the judge.
def solve(x):
    raise UnicodeDecodeError("utf8", b"x", 0, 1, "P")
