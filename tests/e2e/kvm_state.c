/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For tests only: has QEMU 7.2 measure its dirty rate by the dirty bitmap
 * under TCG. calc-dirty-rate asks kvm_dirty_ring_enabled() first, which looks
 * into kvm_state, and that is NULL under TCG: QEMU crashes, with or without
 * our plug-in. A state of zeros answers "no dirty ring". Nothing else in QEMU
 * looks at kvm_state where KVM is not enabled; so it must not be loaded where
 * it is, and refuses that.
 */
#include <stdio.h>

#include "qemu/qemu-plugin.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

/* accel/kvm/kvm-all.c; as large as any of its structures may become. */
extern void *kvm_state;
static _Alignas(64) char zeros[65536];

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
					   char **argv)
{
	(void)id;
	(void)info;
	(void)argc;
	(void)argv;
	if (kvm_state) {
		fprintf(stderr, "kvm_state: KVM is there\n");
		return 1;
	}
	kvm_state = zeros;
	return 0;
}
