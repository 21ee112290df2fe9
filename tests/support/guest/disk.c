// SPDX-License-Identifier: MIT
/*
 * Reads and writes of a disk past the page cache. Every 64-bit word of the
 * disk says where it is and which write put it there; the harness makes the
 * disk with generation 0. When it is unplugged, what was read stays under
 * check, and the next disk of that name is taken, as the harness made it.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ARENA_PAGES 8192u /* 32 MiB for each thread */
#define LONGEST_PAGES 16u /* 64 KiB in one request */
#define WRITE_EVERY 4u
#define SWEEP 8u /* pages looked at again for each page read */

/* What a page of the arena must hold. */
struct expected {
	uint32_t block; /* of the thread's part */
	uint32_t generation;
	int valid;
};

struct disk {
	const struct disk_args *args;
	int fd;
	uint64_t first; /* byte of the disk where the thread's part begins */
	uint32_t blocks;
	uint32_t *generation; /* of each block */
	uint8_t *arena;	      /* only ever written by the device */
	struct expected *expected;
	uint8_t *out; /* written by the CPU, read by the device */
	uint32_t cursor;
	uint32_t swept;
	uint64_t random;
};

static uint64_t word_at(const struct disk *d, uint32_t block, uint32_t generation, unsigned int i)
{
	return (d->first + (uint64_t)block * PAGE + i * 8) ^
	       (uint64_t)generation * 0x9e3779b97f4a7c15u;
}

static uint32_t next_random(struct disk *d, uint32_t below)
{
	d->random ^= d->random << 13;
	d->random ^= d->random >> 7;
	d->random ^= d->random << 17;
	return (uint32_t)((d->random >> 16) % below);
}

/* Does the arena still hold what was read into it long ago? */
static void check(const struct disk *d, uint32_t page)
{
	const struct expected *e = &d->expected[page];
	const uint64_t *words = (const uint64_t *)(d->arena + (size_t)page * PAGE);
	unsigned int i;

	if (!e->valid)
		return;
	for (i = 0; i < PAGE / 8; i++) {
		if (words[i] == word_at(d, e->block, e->generation, i))
			continue;
		report_error("disk block %u generation %u: word %u of buffer page %u is %#llx",
			     e->block, e->generation, i, page, (unsigned long long)words[i]);
		return;
	}
}

static void sweep(struct disk *d, uint32_t pages)
{
	for (; pages; pages--) {
		check(d, d->swept++);
		if (d->swept == ARENA_PAGES) {
			d->swept = 0;
			atomic_fetch_add(&counters.disk_sweeps, 1);
		}
	}
}

static int is_there(const void *path)
{
	return !access(path, F_OK);
}

static void open_disk(struct disk *d)
{
	const struct disk_args *args = d->args;
	uint64_t bytes;

	d->fd = open(args->path, O_RDWR | O_DIRECT);
	if (d->fd < 0 || ioctl(d->fd, BLKGETSIZE64, &bytes))
		die("%s: %s", args->path, strerror(errno));
	d->blocks = (uint32_t)(bytes / PAGE / args->parts);
	if (d->blocks <= LONGEST_PAGES)
		die("%s: a disk of %llu bytes", args->path, (unsigned long long)bytes);
	d->first = (uint64_t)d->blocks * PAGE * args->part;
	d->generation = calloc(d->blocks, sizeof(*d->generation));
	if (!d->generation)
		die("no memory");
}

/* A request has failed. Goes on with the next disk if this one was unplugged. */
static void replace_disk(struct disk *d, const char *request, const char *why)
{
	if (!has_gone(is_there, d->args->path)) {
		report_error("disk %s: %s", request, why);
		return;
	}
	if (d->args->part == 0)
		atomic_fetch_add(&counters.disks_gone, 1);
	close(d->fd); /* or the next one gets another name */
	free(d->generation);
	while (!is_there(d->args->path)) {
		sweep(d, SWEEP);
		wait_a_moment();
	}
	open_disk(d);
}

static const char *reason(ssize_t done)
{
	return done < 0 ? strerror(errno) : "too short";
}

static void write_blocks(struct disk *d, uint32_t block, uint32_t count)
{
	uint64_t *words = (uint64_t *)d->out;
	ssize_t done;
	uint32_t b;
	unsigned int i;

	for (b = 0; b < count; b++) {
		d->generation[block + b]++;
		for (i = 0; i < PAGE / 8; i++)
			*words++ = word_at(d, block + b, d->generation[block + b], i);
	}
	done = pwrite(d->fd, d->out, (size_t)count * PAGE,
		      (off_t)(d->first + (uint64_t)block * PAGE));
	if (done != (ssize_t)count * PAGE)
		replace_disk(d, "write", reason(done));
}

static void read_blocks(struct disk *d, uint32_t block, uint32_t count)
{
	ssize_t done;
	uint32_t b, page;

	if (d->cursor + count > ARENA_PAGES)
		d->cursor = 0;
	page = d->cursor;
	d->cursor += count;
	for (b = 0; b < count; b++)
		d->expected[page + b].valid = 0;
	done = pread(d->fd, d->arena + (size_t)page * PAGE, (size_t)count * PAGE,
		     (off_t)(d->first + (uint64_t)block * PAGE));
	if (done != (ssize_t)count * PAGE) {
		replace_disk(d, "read", reason(done));
		return;
	}
	for (b = 0; b < count; b++)
		d->expected[page + b] = (struct expected){
			.block = block + b,
			.generation = d->generation[block + b],
			.valid = 1,
		};
}

void *disk_thread(void *disk_args)
{
	const struct disk_args *args = disk_args;
	struct pace pace = pace_start(args->bytes_per_second);
	struct disk d = {.args = args, .random = 88172645463325252u + args->part};
	unsigned int n;

	open_disk(&d);
	d.expected = calloc(ARENA_PAGES, sizeof(*d.expected));
	if (!d.expected)
		die("no memory");
	d.arena = arena((size_t)ARENA_PAGES * PAGE);
	d.out = arena((size_t)LONGEST_PAGES * PAGE);
	for (n = 0;; n++) {
		uint32_t count = 1u << next_random(&d, 5);
		uint32_t block = next_random(&d, d.blocks - LONGEST_PAGES);

		if (!args->read_only && n % WRITE_EVERY == 0) {
			write_blocks(&d, block, count);
			atomic_fetch_add(&counters.disk_bytes, (uint64_t)count * PAGE);
			pace_wait(&pace, (uint64_t)count * PAGE);
		}
		read_blocks(&d, block, count);
		sweep(&d, SWEEP * count);
		atomic_fetch_add(&counters.disk_bytes, (uint64_t)count * PAGE);
		pace_wait(&pace, (uint64_t)count * PAGE);
	}
}
