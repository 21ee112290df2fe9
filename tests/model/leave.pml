/* SPDX-License-Identifier: MIT */
/*
 * Devices that must be gone before a migration ends. The host holds the end for
 * one; the guest lets go of it or never does; it leaves its bus (unplugged), and
 * later nothing is left of it (removed). Until then the VMM has guest RAM mapped
 * for it. If its state cannot be saved, it does not stop with the VM either.
 *
 * One device, one page. What the device writes before the last pass is in that
 * pass: marks.pml, counts.pml and session.pml show that. Here it is when the
 * last pass may be.
 *
 *   spin -a leave.pml
 *   gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=4000 pan.c -o pan
 *   ./pan -m12000000
 *
 * Searched with nothing unreached: 175 states, 37 deep, under 1 s.
 */

bit plugged = 1; /* on its bus: covered */
bit there = 1;   /* not removed */
bit driven = 1;  /* the guest uses it */
bit savable;
bit older = 1;   /* the destination has no copy of the page, or an older one */
bit stopped, over;
bit hold;        /* Device::held_for() */

/* Domain::holding() */
#if defined(BREAK_NO_HOLD)
#define HOLDING false
#elif defined(BREAK_REMOVED_IS_UNPLUGGED)
#define HOLDING (hold && plugged)
#else
#define HOLDING (hold && there)
#endif

/* Domain::in_the_way() */
#if defined(BREAK_NO_CHECK)
#define IN_THE_WAY false
#elif defined(BREAK_REMOVED_IS_UNPLUGGED)
#define IN_THE_WAY (plugged && (hold || !savable))
#else
#define IN_THE_WAY (there && (hold || !savable))
#endif

/* Policy::why_blocked() */
#if defined(BREAK_STARTS_UNSAVABLE)
#define BLOCKED false
#elif defined(BREAK_UNPLUGGED_STARTS)
#define BLOCKED (plugged && !savable && !hold)
#else
#define BLOCKED (there && !savable && !hold)
#endif

active proctype device() {
	do
	:: atomic { there && (!stopped || !savable) && !older -> older = 1 }
	:: over -> break
	od
}

active proctype guest() {
	do
	:: atomic { !stopped && driven -> driven = 0 }
	:: atomic { !stopped && plugged && !driven -> driven = 1 }
	:: over -> break
	od
}

active proctype vmm() {
	do
	/* With the guest's consent, or by surprise. */
	:: atomic { !stopped && plugged -> plugged = 0; driven = 0 }
	:: atomic { there && !plugged -> there = 0; hold = 0 }
	:: over -> break
	od
}

mtype = { IDLE, PASSES, STOPPED, SENT };

active proctype migration() {
	mtype mode = IDLE;
	bit asked;  /* this one is to wait */
	bit forced; /* the VMM stops although it was told to hold */

	if
	:: savable = 1
	:: skip
	fi;
	do
	/* hold-for, then migrate; or migrate alone */
	:: atomic { mode == IDLE ->
		if
		:: plugged -> asked = 1; hold = 1
		:: skip
		fi;
		if
		:: BLOCKED -> asked = 0
		:: else -> mode = PASSES
		fi }
#ifdef BREAK_HOLD_ENDS_AT_REQUEST
	:: atomic { mode == PASSES && hold -> hold = 0 }
#endif
	/* The rest fits. */
	:: atomic { mode == PASSES ->
		assert(asked || !HOLDING);
		if
		:: !HOLDING
		:: HOLDING -> forced = 1
		fi;
		stopped = 1; mode = STOPPED }
	:: atomic { mode == STOPPED ->
		if
		:: IN_THE_WAY -> assert(forced); mode = IDLE; stopped = 0
		:: else -> older = 0; mode = SENT
		fi;
		forced = 0;
		if
		:: mode == IDLE -> asked = 0; hold = 0
		:: else
		fi }
	/* The VM runs at the destination, with the device if it was plugged in here. */
	:: atomic { mode == SENT ->
		assert(!older);
		assert(savable || !driven);
		mode = IDLE; stopped = 0; older = 1; asked = 0; hold = 0 }
	/* The guest did not let go in time, or whatever else. */
	:: atomic { mode == PASSES ->
		mode = IDLE; asked = 0; older = 1;
#ifndef BREAK_HOLD_STAYS
		hold = 0
#endif
		}
	/* Plugged in again: what a cancel does if the device was out already. */
	:: atomic { mode == IDLE && !there -> there = 1; plugged = 1 }
	:: atomic { mode == IDLE -> over = 1; break }
	od
}
