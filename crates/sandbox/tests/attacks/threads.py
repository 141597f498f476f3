# Breach: there is a second thread, let alone a thousand.
import threading
import time

for _ in range(1000):
    attempt("thread", threading.Thread(target=time.sleep, args=(100,), daemon=True).start)
