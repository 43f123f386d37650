"""ONNX Runtime without a server: how many runs a second it makes of a model on one row.

    python onnxruntime_in_process.py MODEL INPUT --callers 2 --threads 1 --seconds 5

INPUT is a file with the row, little-endian. It prints one JSON object: {"count", "per_second",
"p50_us", "p99_us", "p999_us", "output"}, where `output` has the first numbers that the model gives.
"""

import argparse
import json
import threading
import time

import numpy
import onnxruntime

DTYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("--callers", type=int, default=1, help="runs at once, a thread each")
    parser.add_argument("--threads", type=int, default=1, help="threads of one run")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        arguments.model, options, providers=["CPUExecutionProvider"]
    )
    spec = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    inputs = {spec.name: numpy.fromfile(arguments.input, DTYPES[spec.type]).reshape(shape)}
    output = session.run(None, inputs)[0]
    took: list[float] = []
    begin = time.perf_counter() + arguments.warm_up
    end = begin + arguments.seconds

    def call() -> None:
        # One that counts, however long it takes.
        while (started := time.perf_counter()) < end or not took:
            session.run(None, inputs)
            # Python's lists take an element from several threads.
            if started >= begin:
                took.append(time.perf_counter() - started)

    callers = [threading.Thread(target=call) for _ in range(arguments.callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    elapsed = time.perf_counter() - begin
    p50, p99, p999 = numpy.quantile(took, [0.5, 0.99, 0.999]) * 1e6
    print(json.dumps({
        "count": len(took),
        "per_second": len(took) / elapsed,
        "p50_us": p50,
        "p99_us": p99,
        "p999_us": p999,
        "output": output.ravel()[:4].tolist(),
    }))


if __name__ == "__main__":
    main()
