"""Unmodified clients from PyPI against a running server: what they read, and how they are refused.

ADDRESS is the server, TOKENS a JSON object: `good`, and by name those that must be refused. Prints a line for each call.
"""

import json
import os

import adbc_driver_flightsql.dbapi
import pyarrow.flight as flight
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions
from adbc_driver_manager import Error as AdbcError

ADDRESS = f"grpc://{os.environ['ADDRESS']}"
TOKENS = json.loads(os.environ["TOKENS"])
VERSION = flight.FlightDescriptor.for_path("features", "patient_profile@1")
QUERY = "SELECT region, count(*) AS n FROM features.patient_profile GROUP BY region ORDER BY region"


def statement(text):
    """A Flight SQL statement as a descriptor: `Any` around `CommandStatementQuery`, which pyarrow has no name for."""

    def field(number, content):
        assert len(content) < 16384
        length = bytes([len(content)]) if len(content) < 128 else bytes([len(content) & 127 | 128, len(content) >> 7])
        return bytes([number << 3 | 2]) + length + content

    kind = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return flight.FlightDescriptor.for_command(field(1, kind) + field(2, field(1, text.encode())))


def pyarrow_reads(descriptor, token, purpose=None):
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    if purpose:
        headers.append((b"x-purpose", purpose.encode()))
    options = flight.FlightCallOptions(headers=headers)
    with flight.connect(ADDRESS) as client:
        info = client.get_flight_info(descriptor, options)
        return client.do_get(info.endpoints[0].ticket, options).read_all()


def adbc_reads(text, token, purpose=None, parameters=None):
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"} if token else {}
    if purpose:
        options[f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}x-purpose"] = purpose
    with adbc_driver_flightsql.dbapi.connect(ADDRESS, db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute(text, parameters)
            return cursor.fetch_arrow_table()


def told(client, what, read):
    try:
        table = read()
        print(f"{client}: {what}: {table.num_rows} rows of {', '.join(table.column_names)}")
    except flight.FlightError as error:
        print(f"{client}: {what}: {type(error).__name__}: {str(error).split('. Detail')[0].split('; help')[0]}")
    except AdbcError as error:
        print(f"{client}: {what}: {type(error).__name__}: {str(error).split('; help')[0]}")


told("pyarrow", "a feature version", lambda: pyarrow_reads(VERSION, TOKENS["good"]))
told("pyarrow", "a query", lambda: pyarrow_reads(statement(QUERY), TOKENS["good"]))
told("adbc", "a feature version", lambda: adbc_reads("SELECT * FROM features.patient_profile VERSION 1", TOKENS["good"]))
told("adbc", "a query", lambda: adbc_reads(QUERY, TOKENS["good"]))
bound = adbc_reads("SELECT $1 + 1 AS more, now() > TIMESTAMP '2026-01-01T00:00:00Z' AS later", TOKENS["good"], None, [41])
print(f"adbc: parameters: {bound.to_pylist()}")
some = "SELECT id FROM features.patient_profile WHERE id <= $1 AND sex = $2 ORDER BY id"
ids = [row["id"] for row in adbc_reads(some, TOKENS["good"], None, [40, "m"]).to_pylist()]
print(f"adbc: parameters of a query: {ids}")
for name, token in TOKENS.items():
    if name == "good":
        continue
    told("pyarrow", name, lambda: pyarrow_reads(VERSION, token))
    told("adbc", name, lambda: adbc_reads(QUERY, token))
told("pyarrow", "another purpose", lambda: pyarrow_reads(VERSION, TOKENS["good"], "marketing"))
told("adbc", "another purpose", lambda: adbc_reads(QUERY, TOKENS["good"], "marketing"))
