// SPDX-License-Identifier: MIT
/* Prints the wire format's numbers as JSON, for tests that are not in C. */
#include <inttypes.h>
#include <stdio.h>

#include "pvdirty_abi.h"

#define VALUE(name, value) { name, (uint64_t)(value) }
#define CONSTANT(name) VALUE(#name, PVDIRTY_##name)
#define OFFSET(type, field)                                                    \
	VALUE(#type "." #field, offsetof(struct pvdirty_##type, field))
#define SIZE(type) VALUE(#type, sizeof(struct pvdirty_##type))

static const struct {
	const char *name;
	uint64_t value;
} values[] = {
	CONSTANT(CAP_TYPE),
	CONSTANT(CAP_LEN),
	CONSTANT(CAP_SIGNATURE),
	CONSTANT(VERSION),
	CONSTANT(FEATURES_LOG),
	CONSTANT(OK),
	CONSTANT(E_STATE),
	CONSTANT(E_FEATURES),
	CONSTANT(E_LOG_ADDR),
	CONSTANT(E_LOG_SIZE),
	CONSTANT(E_LOG_HEADER),
	CONSTANT(E_SECTION_COUNT),
	CONSTANT(E_SECTION_RANGE),
	CONSTANT(E_SECTION_ADDR),
	CONSTANT(E_LOG_BUSY),
	CONSTANT(E_LOG_GONE),
	CONSTANT(WINDOW_PAGES),
	CONSTANT(WINDOW_SHIFT),
	CONSTANT(MAX_SECTIONS),
	CONSTANT(LOG_SIGNATURE),
	CONSTANT(LOG_TOP),
	CONSTANT(LOG_TABLE),
	CONSTANT(DEV_TRACKED),
	CONSTANT(DEV_UNTRACKED),
	OFFSET(cap, cap_len),
	OFFSET(cap, cfg_type),
	OFFSET(cap, signature),
	OFFSET(cap, error),
	OFFSET(cap, guest_features),
	OFFSET(cap, log_addr_lo),
	OFFSET(cap, log_addr_hi),
	OFFSET(cap, log_pages),
	OFFSET(cap, notify),
	OFFSET(cap, device_status),
	OFFSET(log, signature),
	OFFSET(log, version),
	OFFSET(log, nsections),
	OFFSET(log, logging),
	OFFSET(log, devices),
	OFFSET(section, base_pfn),
	OFFSET(section, npages),
	OFFSET(section, marks),
	OFFSET(section, counts),
	OFFSET(top, counts),
	OFFSET(summary, counts),
	SIZE(section),
	SIZE(summary),
	SIZE(top),
	VALUE("ACKNOWLEDGE", VIRTIO_CONFIG_S_ACKNOWLEDGE),
	VALUE("DRIVER", VIRTIO_CONFIG_S_DRIVER),
	VALUE("FEATURES_OK", VIRTIO_CONFIG_S_FEATURES_OK),
	VALUE("DRIVER_OK", VIRTIO_CONFIG_S_DRIVER_OK),
	VALUE("FAILED", VIRTIO_CONFIG_S_FAILED),
	VALUE("NEEDS_RESET", VIRTIO_CONFIG_S_NEEDS_RESET),
};

int main(void)
{
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		printf("%s\"%s\": %" PRIu64, i ? ",\n" : "{", values[i].name,
		       values[i].value);
	return puts("}") < 0;
}
