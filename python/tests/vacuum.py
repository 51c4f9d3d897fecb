"""Vacuum by delta-rs with no retention at all, of the Delta folder TABLE of a published version. Prints what it removed."""

import os

import deltalake

table = deltalake.DeltaTable(os.environ["TABLE"])
removed = table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
print(f"removed {len(removed)}")
for name in removed:
    print(name)
