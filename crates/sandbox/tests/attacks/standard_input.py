# Breach: something comes from standard input, or from the terminal.
import sys

if sys.stdin.read():
    breach("input")
attempt("input", input)
attempt("terminal", lambda: open("/dev/tty").read(1))
