// SPDX-License-Identifier: MIT
/*
 * edu DEVICE
 *
 * Drives QEMU's edu device from user space: has it write to locked memory by
 * physical address for ever, a kilobyte about ten times a second, each to a
 * place of its own, and prints a line for each. DEVICE is its directory in
 * sysfs; a driver like uio_pci_generic has enabled it.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 1024u
#define PIECE 1024u /* the buffer's last byte is out of the device's reach */
#define PATTERN 0x5a

#define REGISTERS_BYTES 0x100000u
#define SRC 0x80
#define DST 0x88
#define COUNT 0x90
#define COMMAND 0x98
#define RUN 1u
#define TO_RAM 2u
#define BUFFER 0x40000u

#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY_MASTER 6
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_PFN ((1ull << 55) - 1)

static volatile uint8_t *registers;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int open_in(const char *directory, const char *name, int flags)
{
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, flags);
	if (fd < 0)
		die(path);
	return fd;
}

static uint64_t physical(const uint8_t *page)
{
	int fd = open_in("/proc/self", "pagemap", O_RDONLY);
	uint64_t entry;

	if (pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) !=
		    sizeof(entry) ||
	    !(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_PFN))
		die("pagemap");
	close(fd);
	return (entry & PAGEMAP_PFN) * PAGE;
}

static void transfer(uint64_t src, uint64_t dst, uint32_t command)
{
	*(volatile uint64_t *)(registers + SRC) = src;
	*(volatile uint64_t *)(registers + DST) = dst;
	*(volatile uint64_t *)(registers + COUNT) = PIECE;
	*(volatile uint32_t *)(registers + COMMAND) = RUN | command;
	while (*(volatile uint32_t *)(registers + COMMAND) & RUN)
		usleep(10000);
}

int main(int argc, char **argv)
{
	uint16_t command = PCI_COMMAND_MEMORY_MASTER;
	uint8_t *memory;
	unsigned long round;

	if (argc != 2) {
		fputs("usage: edu DEVICE\n", stderr);
		return 2;
	}
	if (pwrite(open_in(argv[1], "config", O_RDWR), &command, sizeof(command), PCI_COMMAND) !=
	    sizeof(command))
		die("config");
	registers = mmap(NULL, REGISTERS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			 open_in(argv[1], "resource0", O_RDWR | O_SYNC), 0);
	memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	if (registers == MAP_FAILED || memory == MAP_FAILED ||
	    madvise(memory, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE))
		die("mmap");
	memset(memory, PATTERN, PIECE);
	transfer(physical(memory), BUFFER, 0);
	memset(memory, 0, PIECE);
	for (round = 0;; round++) {
		transfer(BUFFER,
			 physical(memory + round % PAGES * PAGE) +
				 round / PAGES % (PAGE / PIECE) * PIECE,
			 TO_RAM);
		printf("%lu\n", round);
		fflush(stdout);
	}
}
