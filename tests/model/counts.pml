/* SPDX-License-Identifier: MIT */
/*
 * Counters: the guest raises them before a device has the address and lowers
 * them at unmap; the host scans them at any time, prunes the levels above, and
 * scans once more at the stop. STUCK is the value at which a counter sticks.
 *
 * Bounds: two pages, two drivers on two vCPUs, each of which maps either page
 * or both.
 *
 *   spin -a -DLAYOUT=1 -DSTUCK=3 counts.pml
 *   gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=4000 pan.c -o pan
 *   ./pan -m12000000
 *
 * Searched with nothing unreached (CPU time, compiler included):
 *   LAYOUT=1 STUCK=3    393,029 states   91,638 deep  3 s
 *   LAYOUT=1 STUCK=2    869,262 states   61,455 deep  3 s
 *   LAYOUT=2 STUCK=2  3,155,028 states  185,980 deep  5 s
 *   LAYOUT=3 STUCK=2  4,998,671 states  227,012 deep  6 s
 */
#include "layout.pml"

#define COUNTS_ROOT 0
#define COUNTS_SUMMARY(section) (1 + (section))
#define COUNT(page) (1 + SECTIONS + (page))
#define GIVEN(driver) (3 + SECTIONS + (driver)) /* the device's descriptor */
#define ADDRESSES (3 + SECTIONS + DRIVERS)

#define DRIVERS 2
#define CPUS (DRIVERS + 1)
#define GUEST_STORES
#include "memory.pml"

#define NOT_STUCK(count) (count != STUCK)
#define NOT_STUCK_DOWN(count) NOT_STUCK(count)
#define RAISED(count) (count + 1)
#define LOSES_COUNT 0
#if defined(BREAK_WRAP)
#undef NOT_STUCK
#undef RAISED
#undef LOSES_COUNT
#define NOT_STUCK(count) true
#define RAISED(count) ((count + 1) % (STUCK + 1))
#define LOSES_COUNT 1
#elif defined(BREAK_UNSTICK)
#undef NOT_STUCK_DOWN
#undef LOSES_COUNT
#define NOT_STUCK_DOWN(count) true
#define LOSES_COUNT 1
#endif

/* Given to a device since the scan began, without a break. */
byte kept;

/* ---- the guest ------------------------------------------------------------- */

/*
 * An increment that is not locked waits in the store buffer. (Two of them could
 * also lose a count, so in this variant each driver has a page of its own.)
 */
#ifdef BREAK_PLAIN_COUNT
inline count_up(page) {
	load(old, COUNT(page));
	store(COUNT(page), old + 1);
	old = 0
}
#else
inline count_up(page) {
	load(old, COUNT(page));
	do
	:: atomic {
		!stopped && DRAINED && NOT_STUCK(old) ->
		if
		:: mem[COUNT(page)] == old -> mem[COUNT(page)] = RAISED(old); old = 0; break
		:: else -> old = mem[COUNT(page)]
		fi }
#if STUCK <= DRIVERS
	:: atomic { !NOT_STUCK(old) -> old = 0; break }
#endif
	od
}
#endif

/* It never goes below 0 while drivers unmap only what they have mapped. */
inline count_down(page) {
	load(old, COUNT(page));
	do
	:: atomic {
		!stopped && DRAINED && NOT_STUCK_DOWN(old) -> assert(old != 0 || LOSES_COUNT);
		if
		:: mem[COUNT(page)] == old -> mem[COUNT(page)] = (old -> old - 1 : 0); old = 0; break
		:: else -> old = mem[COUNT(page)]
		fi }
#if STUCK <= DRIVERS
	:: atomic { !NOT_STUCK_DOWN(old) -> old = 0; break }
#endif
	od
}

#if defined(BREAK_SKIP_LEVELS)
/* Whoever set the summary will set the root too, but may not have done so. */
inline set_levels() {
	load(old, COUNTS_SUMMARY(SECTION_OF(g)));
	if
	:: old & (1 << g) -> old = 0
	:: else ->
		old = 0;
		set_bits(COUNTS_SUMMARY(SECTION_OF(g)), 1 << g);
		set_bits(COUNTS_ROOT, 1 << SECTION_OF(g))
	fi
}
#elif defined(BREAK_NO_RMB)
/* arm64: the loads of summary and root change places. */
inline set_levels() {
	load(early, COUNTS_ROOT);
	load(old, COUNTS_SUMMARY(SECTION_OF(g)));
	if
	:: (old & (1 << g)) && (early & (1 << SECTION_OF(g))) -> early = 0; old = 0
	:: else ->
		early = 0; old = 0;
		set_bits(COUNTS_SUMMARY(SECTION_OF(g)), 1 << g);
		set_bits(COUNTS_ROOT, 1 << SECTION_OF(g))
	fi
}
#else
inline set_levels() {
	set_bits(COUNTS_SUMMARY(SECTION_OF(g)), 1 << g);
	set_bits(COUNTS_ROOT, 1 << SECTION_OF(g))
}
#endif

inline raise() {
	if
	:: range & PAGES_OF(g) & 1 -> count_up(0)
	:: else
	fi;
	if
	:: range & PAGES_OF(g) & 2 -> count_up(1)
	:: else
	fi
}

inline hold() {
	do
	:: atomic { g < GROUPS && (range & PAGES_OF(g)) == 0 -> g++ }
	:: g < GROUPS && (range & PAGES_OF(g)) ->
#if defined(BREAK_LEVELS_FIRST)
		set_levels(); raise();
#elif defined(BREAK_GIVE_EARLY)
		raise(); store(GIVEN(c), range); set_levels();
#else
		raise(); set_levels();
#endif
		g++
	:: atomic { g == GROUPS -> g = 0; break }
	od
}

inline drop() {
	do
	:: atomic { g < GROUPS && (range & PAGES_OF(g)) == 0 -> g++ }
	:: g < GROUPS && (range & PAGES_OF(g)) ->
		if
		:: range & PAGES_OF(g) & 1 -> count_down(0)
		:: else
		fi;
		if
		:: range & PAGES_OF(g) & 2 -> count_down(1)
		:: else
		fi;
		g++
	:: atomic { g == GROUPS -> g = 0; break }
	od
}

proctype driver(byte c) {
	byte range, g, old;
#ifdef BREAK_NO_RMB
	byte early;
#endif

	do
	:: atomic {
		!over && !stopped ->
		if
#ifdef BREAK_PLAIN_COUNT
		:: range = 1 << c
#else
		:: range = 1
		:: range = 2
		:: range = ALL
#endif
		fi }
#ifdef BREAK_GIVE_FIRST
		store(GIVEN(c), range);
#endif
		hold();
		/* A plain store: a descriptor, or the doorbell. */
#if !defined(BREAK_GIVE_FIRST) && !defined(BREAK_GIVE_EARLY)
		store(GIVEN(c), range);
#endif
		atomic { !stopped && seen(GIVEN(c)) == 0 -> skip }
		drop();
		range = 0
	:: over -> finished[c] = 1; break
	od
}

/* Has what it was given until it completes, and may keep it for ever. */
proctype device(byte d) {
	do
	:: atomic { !stopped && mem[GIVEN(d)] -> kept = kept & ~mem[GIVEN(d)]; mem[GIVEN(d)] = 0 }
	:: finished[d] -> break
	od
}

/* ---- the host: host/log/scan.cpp ------------------------------------------- */

/* One load of a word has the counters of all pages of a group here. */
inline read_group() {
	taken = PAGES_OF(g) & ((mem[COUNT(0)] != 0) + 2 * (mem[COUNT(1)] != 0));
	in_flight = in_flight | taken
}

/* Prunes what is bare: clears the upper level, then looks again. */
inline scan_section() {
	groups = mem[COUNTS_SUMMARY(s)];
	do
	:: g < GROUPS && (groups & (1 << g)) ->
		atomic { read_group(); if :: !taken -> bare = bare | (1 << g) :: else fi; taken = 0; g++ }
	:: g < GROUPS && !(groups & (1 << g)) -> g++
	:: g == GROUPS -> g = 0; groups = 0; break
	od;
	if
	:: bare ->
#ifdef BREAK_NO_PRUNE_FENCE
		atomic { read_group(); if :: !taken -> skip :: else -> bare = 0 fi; taken = 0 }
#endif
		mem[COUNTS_SUMMARY(s)] = mem[COUNTS_SUMMARY(s)] & ~bare;
#if defined(BREAK_NO_SECOND_LOOK) || defined(BREAK_NO_PRUNE_FENCE)
		bare = 0;
#endif
		do
		:: g < GROUPS && (bare & (1 << g)) ->
			read_group();
			if
			:: taken -> mem[COUNTS_SUMMARY(s)] = mem[COUNTS_SUMMARY(s)] | (1 << g)
			:: else
			fi;
			taken = 0; g++
		:: g < GROUPS && !(bare & (1 << g)) -> g++
		:: g == GROUPS -> g = 0; bare = 0; break
		od
	:: else
	fi
}

inline scan() {
	sections = mem[COUNTS_ROOT];
	do
	:: s < SECTIONS && (sections & (1 << s)) ->
		scan_section();
		if
		:: mem[COUNTS_SUMMARY(s)] == 0 -> bare_sections = bare_sections | (1 << s)
		:: else
		fi;
		s++
	:: s < SECTIONS && !(sections & (1 << s)) -> s++
	:: s == SECTIONS -> s = 0; sections = 0; break
	od;
	if
	:: bare_sections ->
		mem[COUNTS_ROOT] = mem[COUNTS_ROOT] & ~bare_sections;
#ifdef BREAK_NO_SECOND_LOOK_AT_ROOT
		bare_sections = 0;
#endif
		do
		:: s < SECTIONS && (bare_sections & (1 << s)) ->
			if
			:: mem[COUNTS_SUMMARY(s)] -> mem[COUNTS_ROOT] = mem[COUNTS_ROOT] | (1 << s)
			:: else
			fi;
			s++
		:: s < SECTIONS && !(bare_sections & (1 << s)) -> s++
		:: s == SECTIONS -> s = 0; bare_sections = 0; break
		od
	:: else
	fi
}

active proctype host() {
	byte in_flight, sections, groups, taken, bare, bare_sections, s, g;

	do
	:: over = 1; break
	:: atomic {
		if
		:: skip
		:: stop_vm() /* the source's last pass */
		fi;
		kept = mem[GIVEN(0)] | mem[GIVEN(1)] }
		scan();
		atomic {
			assert((kept & ~in_flight) == 0);
			/* After a stop the VM goes on at the destination, with the same log. */
			kept = 0; in_flight = 0; stopped = 0
		}
	od
}

init {
	atomic {
		run driver(0); run device(0); run driver(1); run device(1)
	}
}
