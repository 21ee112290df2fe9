/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM as CPUs see it on x86 (TSO): mem[] is what all see. A plain store
 * waits in its CPU's store buffer until bus() carries it out; a load by the
 * same CPU sees it there; a locked instruction and a full fence wait until the
 * buffer is empty. The buffer has one entry, and that is enough: store() asserts
 * that it is never needed twice.
 *
 * Where arm64 is weaker than that, the variant that needs it reorders by hand.
 *
 * Only in counts.pml vCPUs have plain stores to do (GUEST_STORES), and only
 * there the host has none; buffers that stay empty are left out.
 *
 * The includer defines ADDRESSES, and CPUS: two vCPUs and, last, the host. The
 * code of a CPU has its number in c.
 */
#define NOWHERE 255
#define HOST (CPUS - 1)

byte mem[ADDRESSES + 1]; /* the last one takes what is flushed of an empty buffer: 0 */
byte sb_at[CPUS] = NOWHERE; /* address of the waiting store */
byte sb_value[CPUS];

bit stopped; /* the VM: no vCPU and no device makes a step */
bit over;    /* nothing more will happen: all processes end */

/* To be used in an atomic step. */
inline flush(cpu) {
	mem[(sb_at[cpu] == NOWHERE -> ADDRESSES : sb_at[cpu])] = sb_value[cpu];
	sb_at[cpu] = NOWHERE; sb_value[cpu] = 0
}

#ifdef GUEST_STORES
#define DRAINED (sb_at[c] == NOWHERE)
#define seen(at) (sb_at[c] == (at) -> sb_value[c] : mem[at])

inline store(at, value) {
	atomic {
#ifdef BREAK_PLAIN_COUNT
		!stopped && sb_at[c] == NOWHERE ->
#else
		!stopped -> assert(sb_at[c] == NOWHERE);
#endif
		sb_at[c] = at; sb_value[c] = value
	}
}

#define NO_MORE_STORES (finished[0] && finished[1])

bit finished[CPUS - 1]; /* vCPUs that have ended */
#else
#define NO_MORE_STORES true
#define DRAINED true
#define seen(at) mem[at]
#endif

inline load(to, at) {
	atomic { !stopped -> to = seen(at) }
}

/* pvd_set_bit_at() in guest/core/page.h. A cmpxchg that fails tells what is there. */
inline set_bits(at, mask) {
	load(old, at);
	do
	:: atomic {
		!stopped && DRAINED && (old & (mask)) != (mask) ->
		if
		:: mem[at] == old -> mem[at] = old | (mask); old = 0; break
		:: else -> old = mem[at]
		fi }
	:: atomic { (old & (mask)) == (mask) -> old = 0; break }
	od
}

/* What waits in a store buffer is seen by all at some time. */
active proctype bus() {
	do
#ifdef GUEST_STORES
	:: atomic { sb_at[0] != NOWHERE -> flush(0) }
	:: atomic { sb_at[1] != NOWHERE -> flush(1) }
#else
	:: atomic { sb_at[HOST] != NOWHERE -> flush(HOST) }
#endif
	:: over && NO_MORE_STORES -> break
	od
}

/* The stop of the VM: a vCPU that leaves the guest has an empty buffer. */
inline stop_vm() {
	stopped = 1;
#ifdef GUEST_STORES
	flush(0); flush(1)
#endif
}
