"""ASOF joins side by side, in turns: Custody, DuckDB's own ASOF join, Feast with its DuckDB offline store.

    python3 -m venv asof-venv && asof-venv/bin/pip install duckdb 'feast[duckdb]'
    asof-venv/bin/python benches/asof/compare.py --custody 'cargo bench --bench custody -- asof'

Prints a table; every engine must give the same rows, matches and sum. `--pool 256` gives Custody a pool of 256 MiB.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# name: spine rows, feature rows, keys, whether few keys hold most rows
CASES = {
    "plain": (200_000, 2_000_000, 20_000, False),
    "large": (1_000_000, 5_000_000, 100_000, False),
    "skewed": (200_000, 2_000_000, 200, True),
}
SPAN = 5 * 365 * 86_400 * 1_000_000  # five years in microseconds
START = 1_577_836_800_000_000


def keys(rng, n, count, skewed):
    if not skewed:
        return rng.integers(0, count, n)
    weights = 1 / np.arange(1, count + 1) ** 1.2
    return rng.choice(count, n, p=weights / weights.sum())


def table(rng, n, count, skewed, value):
    ids, ts = keys(rng, n, count, skewed), START + rng.integers(0, SPAN, n)
    if value:  # no two rows of one key at one time
        pairs = np.unique(np.stack([ids, ts], axis=1), axis=0)
        pairs = pairs[rng.permutation(len(pairs))]
        ids, ts = pairs[:, 0], pairs[:, 1]
    columns = {"id": pa.array(ids, pa.int64()), "ts": pa.array(ts, pa.timestamp("us", "UTC"))}
    if value:
        columns["value"] = pa.array(rng.normal(50, 10, len(ids)))
    fields = [pa.field(n, c.type, nullable=n == "value") for n, c in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def make(folder, case):
    spine_rows, feature_rows, count, skewed = CASES[case]
    rng = np.random.default_rng(7)
    for side, n in (("feature", feature_rows), ("spine", spine_rows)):
        at = folder / case / side
        if not at.exists():
            at.mkdir(parents=True)
            pq.write_table(table(rng, n, count, skewed, side == "feature"), at / "part.parquet")


# Feast's DuckDB store joins each spine row with all earlier feature rows of its key before it keeps one; 6e10 pairs
# filled a disk of 27 GB.
FEAST_AT_MOST = 1e9


def joined_by_feast(case):
    spine_rows, feature_rows, count, skewed = CASES[case]
    weights = 1 / np.arange(1, count + 1) ** (1.2 if skewed else 0)
    return spine_rows * feature_rows * float(np.sum((weights / weights.sum()) ** 2))


class Custody:
    def __init__(self, command, folder, pool):
        arguments = [*shlex.split(command), str(folder), str(pool)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not self.answer().get("ready"):
            pass

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("custody ended")
        return json.loads(line) if line.startswith("{") else {}

    def run(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return self.answer()


def duck(folder, case, threads):
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    files = [str(folder / case / side / "part.parquet") for side in ("spine", "feature")]
    begun = time.perf_counter()
    rows = connection.execute(
        f"SELECT s.id, s.ts, f.value FROM '{files[0]}' AS s ASOF LEFT JOIN '{files[1]}' AS f ON s.id = f.id AND s.ts >= f.ts"
    ).to_arrow_table()
    return counted(rows.column("value"), time.perf_counter() - begun)


def feast_store(folder, case):
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64
    from feast.value_type import ValueType

    home = tempfile.mkdtemp(dir=folder)
    store = FeatureStore(
        config=RepoConfig(
            project="asof",
            provider="local",
            registry=f"{home}/registry.db",
            offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": f"{home}/online.db"},
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / case / "feature" / "part.parquet"), timestamp_field="ts")
    view = FeatureView(name="f", entities=[entity], schema=[Field(name="value", dtype=Float64)], source=source, ttl=None)
    store.apply([entity, view])
    spine = pq.read_table(folder / case / "spine" / "part.parquet").to_pandas().rename(columns={"ts": "event_timestamp"})
    return store, spine


def feast(prepared):
    store, spine = prepared
    begun = time.perf_counter()
    rows = store.get_historical_features(entity_df=spine, features=["f:value"]).to_arrow()
    return counted(rows.column("value"), time.perf_counter() - begun)


def counted(values, seconds):
    values = values.to_numpy(zero_copy_only=False)
    known = values[~np.isnan(values.astype(float))].astype(float)
    return {"seconds": seconds, "rows": len(values), "matched": len(known), "sum": float(known.sum())}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--custody", required=True, help="the command, without the folder")
    arguments.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "custody-asof")
    arguments.add_argument("--cases", nargs="*", default=list(CASES))
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--feast-rounds", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--pool", type=int, default=2048)
    arguments = arguments.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    for case in arguments.cases:
        make(arguments.folder, case)
    custody = Custody(arguments.custody, arguments.folder, arguments.pool)
    for case in arguments.cases:
        ways = {
            "custody": lambda: custody.run(case),
            "custody, published": lambda: custody.run(f"published {case}"),
            "duckdb": lambda: duck(arguments.folder, case, arguments.threads),
        }
        answers = {way: [] for way in ways}
        for n in range(arguments.rounds + 1):
            for way in ways if n % 2 else reversed(ways):
                answer = ways[way]()
                if n:  # the first round warms caches
                    answers[way].append(answer)
        pairs = joined_by_feast(case)
        if arguments.feast_rounds and pairs > FEAST_AT_MOST:
            print(f"{case}: Feast joins every pair of a key first, {pairs:.1e} rows: left out")
        elif arguments.feast_rounds:
            prepared = feast_store(arguments.folder, case)
            answers["feast"] = [feast(prepared) for _ in range(arguments.feast_rounds)]
        print(f"\n{case}: {CASES[case]}, pool {arguments.pool} MiB")
        base = min(a["seconds"] for a in answers["duckdb"])
        for way, all_answers in answers.items():
            seconds = [a["seconds"] for a in all_answers]
            told = all_answers[-1]
            print(
                f"  {way:<20} best {min(seconds):8.3f} s  median {statistics.median(seconds):8.3f} s  /duckdb {min(seconds) / base:6.2f}"
                f"  rows {told['rows']} matched {told['matched']} sum {told['sum']:.1f}"
                + (f"  spilled {told['spill_peak_bytes'] >> 20} MiB resident {told['resident_bytes'] >> 20} MiB" if "spill_peak_bytes" in told else ""),
                flush=True,
            )
        exact = {way: (a[-1]["rows"], a[-1]["matched"], round(a[-1]["sum"], 1)) for way, a in answers.items() if way != "feast"}
        assert len(set(exact.values())) == 1, exact


if __name__ == "__main__":
    main()
