# Breach: the garbage collector finds the test or its answers.
import gc

for thing in gc.get_objects():
    if type(thing) is dict and ("verdict" in thing or "METADATA" in thing and thing is not globals()):
        breach("the test is here")


def solve(x):
    for thing in gc.get_objects():
        if type(thing) is dict and "answer" in thing and thing is not globals():
            thing["answer"] = ("value", True)
    return 0
