// SPDX-License-Identifier: MIT
/* Memory that only the CPU writes: its losses would be the VMM's own. */
#include "load.h"

#define CPU_PAGES 2048u

void *cpu_thread(void *rate)
{
	struct pace pace = pace_start(*(double *)rate);
	uint8_t *memory = arena((size_t)CPU_PAGES * PAGE);
	uint64_t round;
	uint32_t page;

	for (round = 1;; round++) {
		for (page = 0; page < CPU_PAGES; page++) {
			uint64_t *words = (uint64_t *)(memory + (size_t)page * PAGE);

			if (round > 1 && (words[0] != round - 1 || words[511] != ((round - 1) ^ page)))
				report_error("cpu page %u is not of round %llu", page,
					     (unsigned long long)round - 1);
			words[0] = round;
			words[511] = round ^ page;
			atomic_fetch_add(&counters.cpu_pages, 1);
			pace_wait(&pace, 1);
		}
	}
}
