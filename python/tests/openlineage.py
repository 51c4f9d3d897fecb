"""Events against the official JSON schemas: the whole event, and each facet that a schema is there for.

EVENTS is a file of NDJSON, SCHEMAS the folder of the schemas. Prints how many were valid, and every violation.
"""

import collections
import json
import os
import pathlib

import jsonschema
import referencing

folder = pathlib.Path(os.environ["SCHEMAS"])
core = json.loads((folder / "OpenLineage.json").read_text())
facets = {}
for file in sorted((folder / "facets").glob("*.json")):
    schema = json.loads(file.read_text())
    facets[schema["$id"]] = schema
registry = referencing.Registry().with_contents([(core["$id"], core), *facets.items()])


def violations(schema, value):
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def facets_in(value):
    """Every facet below a value, with its schema's address."""
    if isinstance(value, dict):
        if "_schemaURL" in value:
            yield value["_schemaURL"], value
        for inner in value.values():
            yield from facets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from facets_in(inner)


kinds = collections.Counter()
for line in pathlib.Path(os.environ["EVENTS"]).read_text().splitlines():
    event = json.loads(line)
    wrong = violations({"$ref": event["schemaURL"]}, event)
    kinds[f"event {event['eventType']}"] += 1
    for address, facet in facets_in(event):
        if address.split("#")[0] in facets:
            wrong += violations({"$ref": address}, facet)
            kinds[f"facet {address.rsplit('/', 1)[-1]}"] += 1
    for message in wrong:
        print(f"NOT valid: {message}")
for kind in sorted(kinds):
    print(kind)
