"""Softmax regression of a Parquet file larger than memory: rate against rows in memory, peak
memory, kill and resume.

    python benchmarks/streams.py [--rows 20000000] [--folder DIR]

Each fit is a process of its own. The rates are seconds per row, in turn: some of the rows in
memory, all from the file. Memory is the peak of the process, the interpreter and libraries
included. The kill is SIGKILL after half of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLUMNS, CLASSES, GROUP = 20, 5, 1_000_000

IN_MEMORY = """
import numpy as np, pyarrow.parquet as pq
table = pq.ParquetFile(path).read_row_group(0)
y = table.column("y").to_numpy()
x = np.stack([table.column(name).to_numpy() for name in table.column_names[1:]], 1)
nll.SoftmaxRegression().fit(x, y)  # what is done once
start = time.perf_counter()
fit = nll.SoftmaxRegression().fit(x, y).result_
report(len(y))
"""
STREAMED = """
start = time.perf_counter()
fit = nll.SoftmaxRegression().fit(nll.Stream(path, "y"), checkpoint=checkpoint).result_
report(fit.n)
"""
COMMON = """
import json, sys, time
import nll
path, checkpoint = sys.argv[1], sys.argv[2] or None
def report(rows):
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which starts from that of the process that started this one.
    status = open("/proc/self/status")
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak, "status": fit.status,
                      "coef": fit.vector.tolist(),
                      "errors": fit.standard_errors["coef"].reshape(-1).tolist()}))
"""


def write(path: Path, rows: int) -> None:
    """Normal columns on scales from 0.01 to 1000, labels of the model, in the row groups that
    pyarrow makes.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(CLASSES, COLUMNS)) * 0.3
    scale = 10.0 ** rng.uniform(-2, 3, COLUMNS)
    schema = pa.schema([("y", pa.int64())] + [(f"x{j}", pa.float64()) for j in range(COLUMNS)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP):
            z = rng.normal(size=(min(GROUP, rows - start), COLUMNS))
            scores = z @ slopes.T
            y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
            x = (z + 3) * scale
            columns = [y, *(np.ascontiguousarray(x[:, j]) for j in range(COLUMNS))]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)


def run(code: str, path: Path, checkpoint: str = "") -> dict:
    """One fit in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code, str(path), checkpoint],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def killed(path: Path, checkpoint: str, seconds: float) -> None:
    """A fit that is stopped without a warning."""
    process = subprocess.Popen([sys.executable, "-c", COMMON + STREAMED, str(path), checkpoint])
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def difference(a: dict, b: dict) -> float:
    """The largest relative difference of coefficients and errors."""
    pairs = [*zip(a["coef"], b["coef"], strict=True), *zip(a["errors"], b["errors"], strict=True)]
    return max(abs(x - y) / abs(y) for x, y in pairs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path, kept = Path(folder) / "rows.parquet", os.path.join(folder, "passes")
        write(path, given.rows)
        print(
            f"{given.rows} rows, {COLUMNS} columns, {CLASSES} classes: "
            f"{path.stat().st_size / 1e9:.2f} GB",
            flush=True,
        )
        memory, streamed = [], []
        for _ in range(given.rounds):
            memory.append(run(IN_MEMORY, path))
            streamed.append(run(STREAMED, path))
        for name, fits in (("in memory", memory), ("streamed", streamed)):
            for fit in fits:
                rate = fit["seconds"] / fit["rows"] * 1e6
                print(
                    f"{name:10} {fit['rows']:>12.0f} rows {fit['seconds']:7.2f} s {rate:6.3f} "
                    f"us/row "
                    f"{fit['peak']:6.0f} MB  {fit['status']}"
                )
        rates = [min(fit["seconds"] / fit["rows"] for fit in fits) for fits in (streamed, memory)]
        print(f"seconds per row, streamed : in memory = {rates[0] / rates[1]:.2f}")
        killed(path, kept, streamed[-1]["seconds"] / 2 + 3)
        resumed = run(STREAMED, path, kept)
        print(
            f"killed half-way, resumed: {resumed['seconds']:.2f} s, differs by "
            f"{difference(resumed, streamed[0]):.1e}"
        )


if __name__ == "__main__":
    main()
