# Breach: another program runs.
import subprocess
import sys

attempt("run", lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
attempt("shell", lambda: subprocess.check_output("id", shell=True))
