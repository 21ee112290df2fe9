// SPDX-License-Identifier: MIT
/*
 * load [disk=PATH:KIB_PER_SECOND[:ro]] [net=INTERFACE] [cpu=PAGES_PER_SECOND]
 *
 * Runs the named parts for ever and prints their totals twice a second.
 */
#include "load.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define DISK_THREADS 2
#define ERRORS_SHOWN 20
#define GONE_SECONDS 60

struct counters counters;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void sleep_for(double seconds)
{
	struct timespec t = {
		.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9),
	};

	nanosleep(&t, NULL);
}

struct pace pace_start(double rate)
{
	return (struct pace){.start = now(), .rate = rate};
}

void pace_wait(struct pace *pace, uint64_t units)
{
	double early;

	pace->done += units;
	early = pace->start + (double)pace->done / pace->rate - now();
	if (early > 0)
		sleep_for(early);
	else if (early < -1)
		/* Far behind, after a pause of the machine: do not catch up. */
		*pace = pace_start(pace->rate);
}

void report_error(const char *format, ...)
{
	char line[200];
	va_list args;

	if (atomic_fetch_add(&counters.errors, 1) >= ERRORS_SHOWN)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	printf("PVDIRTY error %s\n", line);
}

void die(const char *format, ...)
{
	va_list args;

	fputs("PVDIRTY fatal ", stdout);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	exit(1);
}

void wait_a_moment(void)
{
	sleep_for(0.02);
}

int has_gone(int (*is_there)(const void *device), const void *device)
{
	double limit = now() + GONE_SECONDS;

	while (is_there(device)) {
		if (now() > limit)
			return 0;
		wait_a_moment();
	}
	return 1;
}

void *arena(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* A kernel that has no huge pages does not know the advice. */
	if (p == MAP_FAILED || (madvise(p, bytes, MADV_NOHUGEPAGE) && errno != EINVAL))
		die("no memory for a buffer of %zu bytes", bytes);
	memset(p, 0xee, bytes);
	return p;
}

static void start(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, arg))
		die("cannot start a thread");
}

static void start_disk(char *value)
{
	static struct disk_args args[DISK_THREADS];
	char *colon = strchr(value, ':'), *option;
	unsigned int i;

	if (!colon)
		die("disk=PATH:KIB_PER_SECOND[:ro], not %s", value);
	*colon = '\0';
	option = strchr(colon + 1, ':');
	for (i = 0; i < DISK_THREADS; i++) {
		args[i] = (struct disk_args){
			.path = value,
			.bytes_per_second = atof(colon + 1) * 1024 / DISK_THREADS,
			.part = i,
			.parts = DISK_THREADS,
			.read_only = option && !strcmp(option, ":ro"),
		};
		start(disk_thread, &args[i]);
	}
}

int main(int argc, char **argv)
{
	static double cpu_rate;
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 1; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			die("what is %s?", argv[i]);
		*value++ = '\0';
		if (!strcmp(argv[i], "disk")) {
			start_disk(value);
		} else if (!strcmp(argv[i], "net")) {
			start(net_thread, value);
		} else if (!strcmp(argv[i], "cpu")) {
			cpu_rate = atof(value);
			start(cpu_thread, &cpu_rate);
		} else {
			die("what is %s?", argv[i]);
		}
	}
	for (;;) {
		sleep_for(0.5);
		printf("PVDIRTY io disk_bytes=%llu net_bytes=%llu net_lost=%llu cpu_pages=%llu "
		       "disk_sweeps=%llu disks_gone=%llu nics_gone=%llu errors=%llu\n",
		       (unsigned long long)counters.disk_bytes,
		       (unsigned long long)counters.net_bytes,
		       (unsigned long long)counters.net_lost,
		       (unsigned long long)counters.cpu_pages,
		       (unsigned long long)counters.disk_sweeps,
		       (unsigned long long)counters.disks_gone,
		       (unsigned long long)counters.nics_gone,
		       (unsigned long long)counters.errors);
	}
}
