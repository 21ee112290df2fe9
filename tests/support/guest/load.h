/* SPDX-License-Identifier: MIT */
/*
 * The guest's workload: what its parts share. Each part runs in a thread of
 * its own, does I/O at a bounded rate and checks what the devices wrote long
 * after they wrote it, so that a page that is old at a migration's destination
 * is seen by the guest itself.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096u

/* Totals since the start; read by the reporter. */
struct counters {
	_Atomic uint64_t disk_bytes;
	_Atomic uint64_t net_bytes;
	_Atomic uint64_t net_lost; /* frames missing in the sequence: no error */
	_Atomic uint64_t cpu_pages;
	_Atomic uint64_t disk_sweeps; /* times all of a thread's buffers were checked */
	_Atomic uint64_t disks_gone; /* unplugged, and the workload went on without */
	_Atomic uint64_t nics_gone;
	_Atomic uint64_t errors;
};

extern struct counters counters;

/* Work done at a bounded rate: units per second, from a start time on. */
struct pace {
	double start;
	double rate;
	uint64_t done;
};

struct pace pace_start(double rate);
/* Accounts for units and sleeps as long as they came too early. */
void pace_wait(struct pace *pace, uint64_t units);

/* Prints and counts an error; only the first few are printed. */
__attribute__((format(printf, 1, 2))) void report_error(const char *format, ...);
/* The workload cannot run at all. */
__attribute__((format(printf, 1, 2), noreturn)) void die(const char *format, ...);

/*
 * I/O has failed: was the device unplugged? It goes only a moment later; if it does not, 0 is
 * returned, and the failure is an error.
 */
int has_gone(int (*is_there)(const void *device), const void *device);
/* A short while; the thread does its checks meanwhile. */
void wait_a_moment(void);

/* Fresh, populated, page-aligned memory without huge pages. */
void *arena(size_t bytes);

/* Thread bodies. */
struct disk_args {
	const char *path;
	double bytes_per_second;
	unsigned int part, parts; /* which share of the disk is this thread's */
	int read_only; /* a later kernel's workload finds the disk as it was made */
};
void *disk_thread(void *disk_args);

void *net_thread(void *interface_name);

/* Pages per second. */
void *cpu_thread(void *rate);

#endif /* LOAD_H */
