/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The test port's untracked DMA; see untracked.c. All under the BQL. */
#ifndef PVDIRTY_QEMU_UNTRACKED_H
#define PVDIRTY_QEMU_UNTRACKED_H

#include "vm.h"

/*
 * For a port with x-test-untracked; false with an error when RAM is not in a
 * shared file.
 */
bool pvdirty_untracked_realize(PVDirtyPort *p, Error **errp);

/* The port goes away, or its object does; nothing for an ordinary port. */
void pvdirty_untracked_exit(PVDirtyPort *p);
void pvdirty_untracked_finalize(PVDirtyPort *p);

/* pvdirty_vm.ram has changed: the shadow follows. */
void pvdirty_untracked_update(PVDirtyPort *p);

/*
 * Tells the oracle of each page that QEMU has finished writing for a device
 * since the last call.
 */
void pvdirty_untracked_take_written(PVDirtyPort *p);

void pvdirty_untracked_register(void);

#endif /* PVDIRTY_QEMU_UNTRACKED_H */
