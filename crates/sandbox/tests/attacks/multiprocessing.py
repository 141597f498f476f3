# Breach: a worker process runs.
import multiprocessing

for method in ("fork", "spawn", "forkserver"):
    context = multiprocessing.get_context(method)

    def start():
        process = context.Process(target=print)
        process.start()

    attempt(method, start)
