# Breach: an answer that contains itself is sent for ever.
def solve(x):
    value = {}
    value["self"] = [value]
    return value
