// SPDX-License-Identifier: MIT
/*
 * I/O whose instructions executed.c counts:
 *
 *   io known COUNT               COUNT rounds of twelve instructions
 *   io wait MILLISECONDS         nothing
 *   io read DISK COUNT           COUNT reads of 4 KiB past the page cache
 *   io receive HOST COUNT STREAM COUNT datagrams, STREAM of them for each one that is sent
 *
 * Some are done before it counts, so that code and buffers are there. Waiting
 * is no work, but a kernel that has nothing to do prepares for sleep, and wakes
 * up for its timer. So while the I/O is under way another process runs, of the
 * lowest priority; its loop, spin(), is left out of the count by its address.
 */
#define _GNU_SOURCE
#include "marks.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define BUFFERS 64u
#define WARM_UP 128u /* requests */
#define PORT 7 /* echo */
#define DATAGRAM 1472u /* fills a frame */

#define MARK(number) asm volatile("nopl %c0(%%rax)" : : "i"(number) : "memory")

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("io: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

__attribute__((noinline, noreturn)) static void spin(void)
{
	for (;;)
		__builtin_ia32_pause();
}

/* Returns the process that does; it ends with this one at the latest. */
static pid_t spin_beside(void)
{
	struct sched_param lowest = {};
	pid_t child = fork();

	if (child < 0)
		die("fork: %s", strerror(errno));
	if (child)
		return child;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || sched_setscheduler(0, SCHED_IDLE, &lowest))
		die("the process beside: %s", strerror(errno));
	spin();
}

static void known(unsigned int count)
{
	MARK(MARK_BEGIN);
	asm volatile("1: .rept 10; nop; .endr; dec %0; jnz 1b" : "+r"(count) : : "cc", "memory");
	MARK(MARK_END);
}

static void wait_for(unsigned int milliseconds)
{
	MARK(MARK_BEGIN);
	usleep(milliseconds * 1000);
	MARK(MARK_END);
}

/* Every 64-bit word of the disk holds its own offset (harness/guest_image.py). */
static void read_pages(int fd, uint8_t *buffers, unsigned int first, unsigned int count)
{
	unsigned int i;

	for (i = first; i < first + count; i++) {
		uint64_t *page = (uint64_t *)(buffers + (size_t)(i % BUFFERS) * PAGE);

		if (pread(fd, page, PAGE, (off_t)i * PAGE) != PAGE || *page != (uint64_t)i * PAGE)
			die("block %u: %s", i, strerror(errno));
	}
}

static void read_disk(const char *disk, unsigned int count)
{
	int fd = open(disk, O_RDONLY | O_DIRECT);
	uint8_t *buffers = mmap(NULL, (size_t)BUFFERS * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (fd < 0 || buffers == MAP_FAILED)
		die("%s: %s", disk, strerror(errno));
	read_pages(fd, buffers, 0, WARM_UP);
	MARK(MARK_BEGIN);
	read_pages(fd, buffers, WARM_UP, count);
	MARK(MARK_END);
}

/* The other side answers a datagram with as many as it asks for (paths.py). */
static void receive_datagrams(int fd, unsigned int count, uint32_t stream)
{
	static uint8_t datagram[DATAGRAM];
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (i % stream == 0 && send(fd, &stream, sizeof(stream), 0) != sizeof(stream))
			die("send: %s", strerror(errno));
		if (recv(fd, datagram, sizeof(datagram), 0) != sizeof(datagram))
			die("datagram %u: %s", i, strerror(errno));
	}
}

static void receive(const char *host, unsigned int count, uint32_t stream)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (!stream || count % stream)
		die("%u datagrams are no streams of %u", count, stream);
	if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)))
		die("%s: %s", host, strerror(errno));
	receive_datagrams(fd, WARM_UP, stream);
	MARK(MARK_BEGIN);
	receive_datagrams(fd, count, stream);
	MARK(MARK_END);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	unsigned int count = argc > 2 ? (unsigned int)atoi(argv[argc == 3 ? 2 : 3]) : 0;

	pid_t beside;

	if (!count) {
		fputs("usage: io known|wait COUNT, io read DISK COUNT, io receive HOST COUNT STREAM\n",
		      stderr);
		return 2;
	}
	beside = spin_beside();
	if (!strcmp(what, "known") && argc == 3)
		known(count);
	else if (!strcmp(what, "wait") && argc == 3)
		wait_for(count);
	else if (!strcmp(what, "read") && argc == 4)
		read_disk(argv[2], count);
	else if (!strcmp(what, "receive") && argc == 5)
		receive(argv[2], count, (uint32_t)atoi(argv[4]));
	else
		die("no such work");
	/* Process 1 is not to have to wait for it. */
	if (kill(beside, SIGKILL) || waitpid(beside, NULL, 0) != beside)
		die("the process beside: %s", strerror(errno));
	puts("io: done");
	return 0;
}
