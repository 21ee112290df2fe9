// SPDX-License-Identifier: MIT
/*
 * Receives the frames of the harness's generator. They wait in the socket's
 * queue for seconds before they are looked at, so that the pages that the NIC
 * wrote are many, and are checked long after it wrote them.
 *
 * A frame after its Ethernet header: a sequence number, little-endian, then
 * bytes of a table that both sides make, from an offset that the sequence
 * number gives. When the NIC is unplugged, the next one of that name is taken,
 * with a generator of its own.
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ETHERTYPE 0x88b5 /* IEEE: local experiments */
#define ETHER_HEADER 14u
#define LONGEST_FRAME 1514u
#define TABLE_BYTES 65536u
#define QUEUE_BYTES (24 << 20)
#define DRAIN_SECONDS 2

static uint8_t table[TABLE_BYTES + LONGEST_FRAME];

/* The generator's table: the high byte of a linear congruence. */
static void make_table(void)
{
	uint32_t x = 1;
	size_t i;

	for (i = 0; i < sizeof(table); i++) {
		x = x * 1664525u + 1013904223u;
		table[i] = (uint8_t)(x >> 24);
	}
}

static void check_frame(const uint8_t *frame, size_t len, uint64_t *next)
{
	uint64_t seq;

	if (len < ETHER_HEADER + sizeof(seq)) {
		report_error("net frame of %zu bytes", len);
		return;
	}
	memcpy(&seq, frame + ETHER_HEADER, sizeof(seq));
	len -= ETHER_HEADER + sizeof(seq);
	frame += ETHER_HEADER + sizeof(seq);
	if (memcmp(frame, table + seq * 61 % TABLE_BYTES, len)) {
		report_error("net frame %llu does not hold what was sent", (unsigned long long)seq);
		return;
	}
	if (seq < *next) {
		report_error("net frame %llu after %llu", (unsigned long long)seq,
			     (unsigned long long)*next - 1);
		return;
	}
	atomic_fetch_add(&counters.net_lost, seq - *next);
	*next = seq + 1;
}

static int open_socket(const char *interface)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE)};
	int queue = QUEUE_BYTES;
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	address.sll_ifindex = (int)if_nametoindex(interface);
	if (fd < 0 || !address.sll_ifindex ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &queue, sizeof(queue)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("%s: %s", interface, strerror(errno));
	return fd;
}

/* A socket whose NIC has gone belongs to none, even if another has come under the same name. */
static int has_nic(const void *socket)
{
	struct sockaddr_ll address;
	socklen_t len = sizeof(address);

	return !getsockname(*(const int *)socket, (struct sockaddr *)&address, &len) &&
	       address.sll_ifindex > 0;
}

static void bring_up(const char *interface)
{
	struct ifreq request = {.ifr_flags = IFF_UP};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		die("%s: %s", interface, strerror(errno));
	close(fd);
}

/* The NIC is down. Goes on with the next one if it was unplugged; returns the socket to use. */
static int replace_nic(const char *interface, int fd)
{
	if (!has_gone(has_nic, &fd)) {
		report_error("net receive: the network is down");
		return fd;
	}
	atomic_fetch_add(&counters.nics_gone, 1);
	while (!if_nametoindex(interface))
		wait_a_moment();
	bring_up(interface);
	close(fd);
	return open_socket(interface);
}

void *net_thread(void *interface_name)
{
	static uint8_t frame[LONGEST_FRAME];
	int fd = open_socket(interface_name);
	uint64_t next = 0;
	int down = 0;

	make_table();
	for (;;) {
		ssize_t len;

		sleep(DRAIN_SECONDS);
		while ((len = recv(fd, frame, sizeof(frame), MSG_DONTWAIT | MSG_TRUNC)) >= 0) {
			if ((size_t)len > sizeof(frame)) {
				report_error("net frame of %zd bytes", len);
				continue;
			}
			check_frame(frame, (size_t)len, &next);
			atomic_fetch_add(&counters.net_bytes, (uint64_t)len);
		}
		if (errno == ENETDOWN) {
			down = 1; /* said once; what has come before is in the queue still */
			continue;
		}
		if (errno != EAGAIN)
			report_error("net receive: %s", strerror(errno));
		if (down) {
			fd = replace_nic(interface_name, fd);
			next = 0;
			down = 0;
		}
	}
}
