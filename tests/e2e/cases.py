# SPDX-License-Identifier: MIT
"""End-to-end cases: `cases.py NAME`; ctest runs them one at a time."""

import functools
import sys

import around
import bad_input
import bridge
import checked
import events
import faults
import features
import hostile
import hostile_migration
import huge_pages
import impossible
import judges
import life
import migrate_command
import mid_migration
import oracle
import plugged_memory
import policies
import provisioning
import runs
import soak
import type1
from support import main

from harness.linux import BUILT_IN

CASES = {
    "sources": provisioning.sources,
    "not-root": provisioning.not_root,
    "second-start": provisioning.second_start,
    "judge-rules": judges.rules,
    "check-counting": judges.counting,
    "demo-table": runs.demo_table,
    "migrate-e1000e": runs.migrate_e1000e,
    "migrate-virtio-blk": runs.migrate_virtio_blk,
    **{
        f"migrate-kernel-{kernel}": functools.partial(runs.migrate_kernel, kernel)
        for kernel in ("6.12", *BUILT_IN)
    },
    "migrate-6G": runs.migrate_above_the_hole,
    "oracle-sees-a-dropped-mark": runs.dropped_mark,
    "soak-draws": soak.expect_draws,
    "check-shards": judges.shards,
    "demo-repeated": runs.repeated,
    "bad-options": bad_input.options,
    "bad-qemu": bad_input.qemu,
    "bad-port": bad_input.port,
    "boots": bad_input.boots,
    "kvm": bad_input.kvm,
    "policy-refuses": bad_input.policy,
    "destination-without-plugin": bad_input.destination_without_plugin,
    "destination-with-fewer-features": bad_input.destination_with_fewer_features,
    "port-hotplug": events.port_hotplug,
    "virtio-without-dma-api": events.virtio_without_the_dma_api,
    "policy-all-dirty": policies.all_dirty,
    "lost-before-the-last-pass": policies.lost_before_the_last_pass,
    "only-the-last-pass-decides": policies.only_the_last_pass_decides,
    "policy-all-dirty-unplugged-memory": policies.unplugged_memory,
    "policy-final-limit": policies.final_limit,
    "only-pre-copy": policies.only_pre_copy,
    "hostile-tables": hostile.tables,
    "hostile-config": hostile.config_fuzz,
    "hostile-log-gone": hostile.log_gone,
    "hostile-largest-log": hostile.largest,
    "hostile-migration": hostile_migration.attacked,
    "hostile-restless": hostile_migration.restless,
    "told-pages-are-sent": hostile_migration.told,
    "oracle-at-start": oracle.at_start,
    "interrupt": life.interrupt,
}
for module in (
    around,
    bridge,
    checked,
    faults,
    features,
    huge_pages,
    impossible,
    mid_migration,
    migrate_command,
    plugged_memory,
    type1,
):
    CASES |= module.CASES

if __name__ == "__main__":
    sys.exit(main(CASES))
