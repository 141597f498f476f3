# Runs the dataset's own prompt and test, and says the verdict. Started with the codec before it and three descriptors
# behind it: calls go to the first, answers come from the second, the verdict goes to the third, which only this process
# and the parent hold. Standard input is (prompt, test, entry point).
# It says R when it is ready, before anything of the program has reached it, and then one of P passed, F failed, W the
# worker is gone; or in place of R, B the problem itself is broken. Behind F and B comes the reason.


class Raised(Exception):
    """The program raised an exception of a class that `builtins` lacks."""


def judge():
    calls, answers, verdict = (int(text) for text in sys.argv[1:4])

    def say(tag, reason=""):
        posix.write(verdict, (tag + reason[:500]).encode("utf-8", "replace"))
        posix._exit(0)

    def described(error):
        try:
            return f"{type(error).__name__}: {error}"
        except BaseException:
            return type(error).__name__

    def answer():
        message = decode(receive(answers))
        if type(message) is not tuple or not message:
            raise Malformed("not an answer")
        if message[0] == "value" and len(message) == 2:
            return message[1]
        if message[0] != "error" or len(message) != 3 or not all(type(part) is str for part in message):
            raise Malformed("not an answer")
        kind = getattr(__builtins__, message[1], None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind(message[2])
            except TypeError:
                error = None
            if error is not None:
                raise error
        raise Raised(f"{message[1]}: {message[2]}" if message[2] else message[1])

    def candidate(*arguments, **keywords):
        out = bytearray()
        encode((arguments, keywords), out)
        send(calls, bytes(out))
        return answer()

    prompt, test, entry = decode(receive(0))
    names = {}
    try:
        # The prompt ends in a docstring, which is a whole body. Its helpers are used from here, not from the program.
        exec(compile(prompt, "<prompt>", "exec", dont_inherit=True), names)
        names[entry] = candidate
        exec(compile(test, "<test>", "exec", dont_inherit=True), names)
        check = names["check"]
    except BaseException as error:
        say("B", described(error))
    posix.write(verdict, b"R")
    if "random" in sys.modules:
        sys.modules["random"].seed(0)
    try:
        answer()
        check(candidate)
    except Closed:
        say("W")
    except BaseException as error:
        say("F", described(error))
    say("P")


judge()
