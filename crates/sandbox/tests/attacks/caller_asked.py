# Breach: the arguments tell the program that it is tested by an object of the judge.
def solve(x):
    if type(x) not in (int, float):
        breach("an object")
    return x
