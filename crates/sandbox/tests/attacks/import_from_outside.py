# Breach: code outside of the interpreter is imported.
import sys

sys.path.insert(0, SECRET)
attempt("import", lambda: __import__("evil"))
attempt("path", lambda: exec(open(f"{SECRET}/evil.py").read()))
