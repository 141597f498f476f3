# Runs the program on standard input as a script would run, with nothing there to read any more.
exec(compile(sys.stdin.buffer.read(), "<program>", "exec", dont_inherit=True), {"__name__": "__main__"})
