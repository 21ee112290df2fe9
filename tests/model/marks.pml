/* SPDX-License-Identifier: MIT */
/*
 * Marks: what devices write, what the guest marks at unmap and sync, what the
 * host harvests and copies, and what it adds at the stop.
 *
 * Bounds: two pages, two drivers on two vCPUs. RANGES_0 and RANGES_1 say what
 * each maps: 1 the first page, 2 the second, 4 both. ORACLE adds that a page
 * whose counter read 0 in a harvest was marked before.
 *
 *   spin -a -DLAYOUT=1 -DRANGES_0=4 -DRANGES_1=2 marks.pml
 *   gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=4000 pan.c -o pan
 *   ./pan -m12000000
 *
 * Searched with nothing unreached (CPU time, compiler included):
 *   LAYOUT=1 RANGES_0=4 RANGES_1=2         6,185,040 states    883,120 deep  10 s
 *   LAYOUT=1 RANGES_0=1 RANGES_1=1 ORACLE  4,861,452 states    750,494 deep   8 s
 *   LAYOUT=2 RANGES_0=4 RANGES_1=1        20,592,186 states  3,219,062 deep  34 s
 *   LAYOUT=3 RANGES_0=4 RANGES_1=1        45,900,198 states  5,403,309 deep  79 s (long)
 */
#include "layout.pml"

#define LOGGING 0
#define MARKS_ROOT 1
#define MARKS_SUMMARY(section) (2 + (section))
#define MARKS(group) (2 + SECTIONS + (group))
#define ADDRESSES (2 + SECTIONS + GROUPS)

#define DRIVERS 2
#define CPUS (DRIVERS + 1)
#include "memory.pml"

/* Groups that a harvest of `range` looks at, and sections. */
#if LAYOUT == 1
#define GROUPS_IN(section) 1
#define SECTIONS_IN 1
#elif LAYOUT == 2
#define GROUPS_IN(section) range
#define SECTIONS_IN 1
#else
#define GROUPS_IN(section) (range & GROUPS_OF(section))
#define SECTIONS_IN (range == 1 -> 1 : 3) /* a section before may reach into the range */
#endif

/*
 * Pages of which the destination has no copy, or an older one than the source
 * has. Outside a migration it has none.
 */
byte older = ALL;

byte held[DRIVERS];  /* in flight: the counters, see counts.pml */
byte given[DRIVERS]; /* the device may write to these */

/* ---- the guest ------------------------------------------------------------- */

#if defined(BREAK_SKIP_BY_ROOT)
inline mark_group() {
	load(old, MARKS_ROOT);
	if
	:: old & (1 << SECTION_OF(g)) -> old = 0
	:: else -> old = 0; set_levels()
	fi
}
#elif defined(BREAK_SKIP_LEVELS)
/* Whoever set the summary will set the root too, but may not have done so. */
inline mark_group() {
	set_bits(MARKS(g), range & PAGES_OF(g));
	load(old, MARKS_SUMMARY(SECTION_OF(g)));
	if
	:: old & (1 << g) -> old = 0
	:: else ->
		old = 0;
		set_bits(MARKS_SUMMARY(SECTION_OF(g)), 1 << g);
		set_bits(MARKS_ROOT, 1 << SECTION_OF(g))
	fi
}
#elif defined(BREAK_SET_DOWN)
inline mark_group() {
	set_bits(MARKS_ROOT, 1 << SECTION_OF(g));
	set_bits(MARKS_SUMMARY(SECTION_OF(g)), 1 << g);
	set_bits(MARKS(g), range & PAGES_OF(g))
}
#elif defined(BREAK_NO_RMB)
/* arm64: the loads of summary and root change places. */
inline mark_group() {
	set_bits(MARKS(g), range & PAGES_OF(g));
	load(early, MARKS_ROOT);
	load(old, MARKS_SUMMARY(SECTION_OF(g)));
	if
	:: (old & (1 << g)) && (early & (1 << SECTION_OF(g))) -> early = 0; old = 0
	:: else ->
		early = 0; old = 0;
		set_bits(MARKS_SUMMARY(SECTION_OF(g)), 1 << g);
		set_bits(MARKS_ROOT, 1 << SECTION_OF(g))
	fi
}
#else
#define mark_group set_levels
#endif

inline set_levels() {
	set_bits(MARKS(g), range & PAGES_OF(g));
	set_bits(MARKS_SUMMARY(SECTION_OF(g)), 1 << g);
	set_bits(MARKS_ROOT, 1 << SECTION_OF(g))
}

/* Pages of a range, group by group. */
inline mark() {
	g = 0;
	do
	:: atomic { g < GROUPS && (range & PAGES_OF(g)) == 0 -> g++ }
	:: g < GROUPS && (range & PAGES_OF(g)) ->
		mark_group();
		g++
	:: atomic { g == GROUPS -> g = 0; break }
	od
}

/*
 * A driver maps a range, the device writes, the driver may sync any number of
 * times, and unmaps when it has seen the completion. The counter is raised
 * before the device has the address (counts.pml has the steps).
 */
proctype driver(byte c; byte ranges) {
	byte range, g, old;
	bit logging;
#ifdef BREAK_NO_RMB
	byte early;
#endif

	do
	:: atomic {
		!over && !stopped ->
		if
		:: ranges & 1 -> range = 1
		:: ranges & 2 -> range = 2
		:: ranges & 4 -> range = ALL
		fi;
		held[c] = range; given[c] = range }
		do
#ifdef BREAK_NO_DMA_RMB
		:: load(logging, LOGGING); /* before the completion is seen */
			atomic {
#else
		:: atomic {
#endif
			!stopped ->
			if
			:: skip /* sync_for_cpu */
			:: given[c] = 0 /* completed; unmap */
			fi }
#ifndef BREAK_NO_DMA_RMB
			load(logging, LOGGING);
#endif
#ifdef BREAK_LOWER_FIRST
			atomic { !stopped -> held[c] = given[c] }
#endif
			if
			:: logging -> logging = 0; mark()
			:: else
			fi;
			if
			:: atomic { !stopped && !given[c] -> held[c] = 0; range = 0; break }
			:: given[c]
			fi
		od
	:: over -> break
	od
}

/* Writes at any time to what it was given, and may do so without end. */
proctype device(byte d) {
	do
	:: atomic { !stopped && (given[d] & ~older & 1) -> older = older | 1 }
	:: atomic { !stopped && (given[d] & ~older & 2) -> older = older | 2 }
	:: over && !held[d] -> break
	od
}

/* ---- the host -------------------------------------------------------------- */

/* GuestWord::take(): a load, then an and that clears what was found. */
inline take(at, mask) {
	taken = mem[at] & (mask);
#ifndef BREAK_CLEAR_UP
	if
	:: taken -> mem[at] = mem[at] & ~taken
	:: else
	fi
#endif
}

/* What is queued will be copied: whether it was older before is nothing to us. */
inline queue(pages) {
	dirty = dirty | (pages); older = older | (pages)
}

inline harvest_group() {
	taken = mem[MARKS(g)] & range & PAGES_OF(g);
	if
	:: taken && (range & PAGES_OF(g)) != ALL ->
#if defined(BREAK_SHARED_WORD)
		atomic { mem[MARKS(g)] = 0; queue(taken); taken = 0 }
#elif defined(BREAK_READ_FIRST)
		if
		:: mode == STARTING
		:: else -> older = older & ~(taken & ~dirty)
		fi;
		atomic { mem[MARKS(g)] = mem[MARKS(g)] & ~taken; taken = 0 }
#else
		atomic { mem[MARKS(g)] = mem[MARKS(g)] & ~taken; queue(taken); taken = 0 }
#endif
#if LAYOUT == 1
	:: taken && range == ALL -> /* a whole word is exchanged for 0 */
		atomic { queue(mem[MARKS(g)]); mem[MARKS(g)] = 0; taken = 0 }
#endif
	:: else
	fi;
#if LAYOUT == 1
	if
	:: mem[MARKS(g)] & PAGES_OF(g) & ~range -> again = 1
	:: else
	fi
#endif
}

/* What the range leaves behind gets its bits in the levels above again. */
inline harvest_section() {
	take(MARKS_SUMMARY(s), GROUPS_IN(s));
	groups = taken; taken = 0;
	do
	:: g < GROUPS && (groups & (1 << g)) -> harvest_group(); g++
	:: g < GROUPS && !(groups & (1 << g)) -> g++
	:: g == GROUPS -> g = 0; groups = 0; break
	od;
#ifdef BREAK_CLEAR_UP
	mem[MARKS_SUMMARY(s)] = 0;
#endif
#if LAYOUT == 1
	if
#ifndef BREAK_LEAVE_REST
	:: again ->
		mem[MARKS_SUMMARY(s)] = mem[MARKS_SUMMARY(s)] | 1;
		mem[MARKS_ROOT] = mem[MARKS_ROOT] | 1;
		again = 0
#endif
	:: else -> again = 0
	fi
#else
	if
#ifndef BREAK_LEAVE_REST
	:: mem[MARKS_SUMMARY(s)] & GROUPS_OF(s) & ~GROUPS_IN(s) ->
		mem[MARKS_ROOT] = mem[MARKS_ROOT] | (1 << s)
#endif
	:: else
	fi
#endif
}

inline harvest() {
#ifdef BREAK_NO_TAKE_FENCE
	/* arm64: the summary is loaded while the root is being cleared. */
	taken = mem[MARKS_ROOT];
	groups = mem[MARKS_SUMMARY(0)];
	mem[MARKS_ROOT] = 0;
	if
	:: taken && !groups -> taken = 0
	:: else
	fi;
	groups = 0;
#else
	take(MARKS_ROOT, SECTIONS_IN);
#endif
	sections = taken; taken = 0;
	do
	:: s < SECTIONS && (sections & (1 << s)) -> harvest_section(); s++
	:: s < SECTIONS && !(sections & (1 << s)) -> s++
	:: s == SECTIONS -> s = 0; sections = 0; break
	od
#ifdef BREAK_CLEAR_UP
	; mem[MARKS_ROOT] = 0
#endif
}

/* Log::publish(): a plain store, then a full fence. */
inline publish(on) {
	atomic { sb_at[HOST] == NOWHERE -> sb_at[HOST] = LOGGING; sb_value[HOST] = on }
#ifndef BREAK_NO_FENCE
	atomic { flush(HOST) }
#endif
}

/*
 * IDLE, or STARTING a migration, in its PASSES, with the VM STOPPED for the
 * last one, or about to lower `logging`: after a cancel, and at the
 * destination. There it may be lowered before the VM runs or after.
 */
mtype = { IDLE, STARTING, PASSES, STOPPED, LOWERING };

#ifdef ORACLE
inline read_counters(page) {
	if
	:: mode == STARTING
	:: atomic { mode != STARTING -> in_flight = in_flight | ((held[0] | held[1]) & (page)) }
	fi
}
#endif

active proctype host() {
	mtype mode = IDLE;
	byte range, dirty, in_flight;
#ifdef ORACLE
	byte written;
#endif
	byte sections, groups, taken, s, g;
#if LAYOUT == 1
	bit again;
#endif

	do
	:: mode == IDLE -> over = 1; break
	:: atomic { mode == IDLE -> mode = STARTING; range = ALL }
	:: atomic {
		mode == PASSES && !range ->
		if
		:: range = 1
		:: range = 2
		:: range = ALL
		:: range = ALL; mode = STOPPED; stop_vm()
		:: mode = LOWERING; older = ALL; dirty = 0
		fi }
	/* Reading a page begins: what is written from here on may be missed. */
	:: atomic { mode == PASSES && !range && (dirty & 1) -> dirty = dirty & ~1; older = older & ~1 }
	:: atomic { mode == PASSES && !range && (dirty & 2) -> dirty = dirty & ~2; older = older & ~2 }
	:: range ->
#ifdef ORACLE
		written = older & ~dirty;
#endif
#ifdef ORACLE
		read_counters(1); read_counters(2);
#else
		/* Of use at the stop only. */
		atomic { if :: mode == STOPPED -> in_flight = held[0] | held[1] :: else fi }
#endif
#ifdef BREAK_DISCARD_LATE
		if
		:: mode == STARTING -> publish(1); older = older & ~1
		:: else
		fi;
#endif
		harvest();
#if defined(ORACLE) && defined(BREAK_COUNTERS_LATE)
		in_flight = 0; read_counters(1); read_counters(2);
#endif
		if
		/* What was there before is discarded. */
#if defined(BREAK_DISCARD_LATE)
		:: atomic { mode == STARTING -> dirty = 0; queue(2); range = 0; mode = PASSES }
#elif defined(BREAK_TRUST_MARKS)
		:: mode == STARTING -> publish(1); atomic { range = 0; mode = PASSES }
#elif defined(BREAK_TRUST_LOGGING)
		:: mode == STARTING -> atomic { queue(ALL); range = 0; mode = PASSES }
#else
		:: mode == STARTING -> publish(1); atomic { queue(ALL); range = 0; mode = PASSES }
#endif
		:: atomic { mode != STARTING ->
#ifdef ORACLE
			/* A page whose counter read 0 was marked before. */
			assert((written & range & ~in_flight & ~dirty) == 0);
			written = 0;
#endif
			if
			:: mode == STOPPED ->
#ifdef BREAK_NO_IN_FLIGHT
				in_flight = 0;
#endif
				older = older & ~(dirty | in_flight);
				assert(older == 0);
				/* The destination has the log as it is. Here is the destination now. */
				older = ALL; dirty = 0; stopped = 0; mode = LOWERING
			:: else
			fi;
			range = 0; in_flight = 0 }
		fi
	:: mode == LOWERING -> publish(0); mode = IDLE
	od
}

init {
	atomic { run driver(0, RANGES_0); run device(0); run driver(1, RANGES_1); run device(1) }
}
