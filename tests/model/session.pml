/* SPDX-License-Identifier: MIT */
/*
 * Completeness: what the host latches while the device, the kernel and driver
 * that track it, the port and the log come and go, and while the host starts,
 * cancels, finishes and repeats migrations.
 *
 * One device, which writes one page, below one port. Of the data path there is
 * what all this meets: the logging word, a mark and a counter of the page
 * (marks.pml and counts.pml have their trees and races).
 *
 * Bounds: one device, one port, a running kernel and its predecessor. DEVICES:
 * the device comes, is bound, left, given away, removed, unplugged and comes
 * back, and pages are mapped that no section has. KERNELS: kernels start,
 * register, leave, crash and are reset; the port and the log's RAM go. The model
 * has both, most variants have one, which is quicker.
 *
 *   spin -a -DDEVICES -DKERNELS session.pml
 *   gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=4000 pan.c -o pan
 *   ./pan -m12000000
 *
 * Searched with nothing unreached (CPU time, compiler included):
 *   DEVICES KERNELS            8,681,160 states  994,701 deep  16 s
 *   DEVICES BASELINE_FROM_VIEW 1,720,499 states  104,951 deep   4 s
 */

#define TRACKED 1
#define UNTRACKED 2
#define FREED 3 /* the entry is free, after a write */

/* Two logs: the running kernel's and its predecessor's. */
byte entry[2];     /* the device's word in pvdirty_log.devices */
bit incomplete[2];
bit logging[2];
bit mark[2];
bit counter[2];

/*
 * pvdirty_log.gaps of the log that the host has, against what the host knows:
 * raised since gaps_seen_ was kept, and since the host last looked.
 */
bit raised, raised_since_view;

/* The guest. */
bit own;         /* index of the running kernel's log */
bit bound;       /* a driver has the device */
bit dead;        /* the kernel has crashed, or the machine was reset */
byte entry_store; /* store buffer of the CPU that runs the notifiers */

/* The device. */
bit present = 1; /* the VMM has it */
bit given;       /* it has the page's address */
bit wild;        /* it writes by itself: firmware, user space, a kernel before */
bit older = 1;   /* the destination has no copy of the page, or an older one */
bit stopped;
bit over, ended; /* nothing more will happen; the kernel has seen it */

/* The host: pvdirty::Domain. */
bit bql;         /* the guest's config accesses wait */
bit port = 1;    /* the VMM has the port */
bit registered;  /* it has DRIVER_OK */
byte log;        /* 0: none; else 1 + its index */
bit on;          /* logging(): somebody wants marks */
bit exposed, latched, tracked;

#define runs (!stopped && !dead)

/* ---- config accesses, seen from the host: host/session/domain.cpp ---------- */

/* The inlines of this part are for atomic steps: the guest waits for them. */
inline latch() {
#ifdef BREAK_EXPOSED_IS_LEVEL
	latched = latched | present
#else
	latched = latched | exposed
#endif
}

/* Port::enter(): the log's word is brought in line with what is wanted. */
inline enter() {
	log = own + 1; raised = 0; raised_since_view = 0;
	logging[own] = on; registered = 1;
	latch()
}

/* Port::leave(), drop_registration(): nothing is written to the log. */
inline leave() {
	log = 0; registered = 0; tracked = 0;
#ifndef BREAK_LEAVE_UNSEEN
	latch()
#else
	skip
#endif
}

/* ---- the guest: guest/cover.c, life.c, port.c ------------------------------ */

/* Each step of the kernel's own CPU ends when it dies, see `unless` below. */
inline write_entry(word) {
	atomic { runs && !entry_store -> entry_store = word }
}

/* pvd_gap() is a locked instruction: what was stored before is seen first. */
#ifdef BREAK_GAP_NOT_LOCKED
#define DRAINED true
#else
#define DRAINED !entry_store
#endif
inline raise_gaps() {
	atomic {
		runs && DRAINED ->
		if
		:: log == own + 1 -> raised = 1; raised_since_view = 1
		:: else
		fi }
}

/* set_state(UNTRACKED): the word, then gaps, before anything else changes. */
inline untrack() {
	if
	:: state == UNTRACKED
	:: else ->
#if defined(BREAK_GAP_FIRST)
		raise_gaps(); write_entry(UNTRACKED);
#elif defined(BREAK_NO_GAP)
		write_entry(UNTRACKED);
#else
		write_entry(UNTRACKED); raise_gaps();
#endif
		state = UNTRACKED
	fi
}

active proctype bus() {
	do
	:: atomic { entry_store -> entry[own] = entry_store % FREED; entry_store = 0 }
	:: ended && !entry_store -> break
	od
}

inline clear(i) {
	entry[i] = 0; incomplete[i] = 0; logging[i] = 0; mark[i] = 0; counter[i] = 0
}

/* A kernel's CPU that runs the notifiers: boot, devices, suspend, the end. */
active proctype kernel() {
	byte state; /* struct pvd_dev, 0: no such device */

	do
	/* The bus is enumerated; then there is a log of the new kernel's own. */
	:: atomic {
		!over && !stopped && !bql && !dead && !entry_store ->
#if defined(KERNELS) && !defined(BREAK_ENUMERATED_UNSEEN)
		if
		:: registered -> leave()
		:: else
		fi;
#endif
		state = 0; bound = 0; own = 1 - own;
		clear(own);
		/* Nobody will look at the old one again. */
		if
		:: !log -> clear(1 - own)
		:: else
		fi }
		do
		/* Also after suspend. */
		:: atomic { runs && !bql && port && !registered -> enter() }
#ifdef KERNELS
		/* Suspend, kexec, unload; counting goes on. */
		:: atomic { runs && !bql && registered -> leave() }
#endif
		/* pvd_cover_add(): it may be one that was removed and comes back. */
		:: atomic { runs && present && !state }
#ifdef BREAK_RETURN_UNSEEN
			write_entry(UNTRACKED); state = UNTRACKED
#else
			untrack()
#endif
		/* A driver has reset the device. It is tracked from then on. */
		:: atomic { runs && state && !bound } /* the driver is probed */
#ifdef BREAK_TRACKED_EARLY
			write_entry(TRACKED);
			atomic { runs -> wild = 0; given = 0 }
#else
			atomic { runs -> wild = 0; given = 0 }
			write_entry(TRACKED);
#endif
			atomic { runs -> state = TRACKED; bound = 1 }
		/* Its driver goes, and has unmapped all. */
		:: atomic { runs && bound && !given && !counter[own] -> bound = 0 }
#ifdef DEVICES
		/* Left alone for a while, or given to user space. */
		:: atomic { runs && state && !bound }
			untrack();
			atomic { runs -> wild = present }
		/* Removed: no gap, since it writes no more. */
		:: atomic { runs && state == TRACKED && !bound }
			write_entry(FREED); state = 0
#endif
#ifdef KERNELS
		/* A crash, or a system reset: the firmware may use the device. */
		:: atomic { runs -> dead = 1; break }
		:: atomic { runs && !bql -> leave(); given = 0; wild = present; dead = 1; break }
#endif
		:: over -> break
		od
	:: over -> ended = 1; break
	od
}

/* Another CPU: a driver maps and unmaps. It dies between any two steps. */
active proctype driver() {
	bit outside, seen;

	do
	:: {
		/* pvd_hold(): the page may lie outside every section. */
		if
		:: atomic { runs && bound -> counter[own] = 1 }
#ifdef DEVICES
		:: atomic { runs && bound -> outside = 1 }
#ifndef BREAK_INCOMPLETE_LATE
			atomic { runs -> incomplete[own] = 1 }
#endif
#endif
		fi;
		atomic { runs -> given = present }
#ifdef BREAK_INCOMPLETE_LATE
		if
		:: outside -> atomic { runs -> incomplete[own] = 1 }
		:: else
		fi;
#endif
		atomic { runs -> given = 0 } /* the device has completed */
		if
		:: !outside -> /* pvd_release() */
			atomic { runs -> seen = logging[own] }
			atomic { runs -> mark[own] = mark[own] | seen; seen = 0 }
			atomic { runs -> counter[own] = 0 }
#ifdef DEVICES
		:: outside ->
#ifdef BREAK_INCOMPLETE_CLEARED
			atomic { runs -> incomplete[own] = 0 }
#endif
			outside = 0
#endif
		fi
#ifdef KERNELS
	} unless { atomic { dead && !stopped -> dead = 0; bound = 0; outside = 0; seen = 0 } }
#else
	}
#endif
	:: over -> break
	od
}

active proctype device() {
	do
	:: atomic { !stopped && (given || wild) && !older -> older = 1 }
	:: over -> break
	od
}

/* ---- the host: host/session/session.cpp ------------------------------------ */

mtype = { IDLE, PASSES, STOPPED, LOWERING };

inline lock() {
	atomic { !bql -> bql = 1 }
}

/* Domain::view(): gaps before the devices. */
inline view() {
	if
	:: !log
	:: else ->
#ifdef BREAK_DEVICES_FIRST
		v_entry = entry[log - 1];
		atomic { v_raised = raised; raised_since_view = 0 }
#else
		atomic { v_raised = raised; raised_since_view = 0 }
		v_entry = entry[log - 1];
#endif
		v_incomplete = incomplete[log - 1]
	fi
}

/* why_untracked(): a device that was tracked may have been removed since. */
#ifdef BREAK_SILENCE_TRUSTED
#define REMOVED true
#else
#define REMOVED (tracked && !v_raised)
#endif
#define IS_TRACKED (registered && log && (v_entry == TRACKED || (v_entry == 0 && REMOVED)))

/*
 * Domain::look(). It compares with gaps as begin() has read them before. If
 * the first look kept what it reads itself (BASELINE_FROM_VIEW), only the order
 * in view() would be between a gap and its loss.
 */
inline look() {
	view();
	atomic {
		if
		:: exposed && present -> tracked = IS_TRACKED; latched = latched | !tracked
		:: else
		fi;
		if
		:: exposed ->
#ifdef BASELINE_FROM_VIEW
			v_raised = v_raised && mode != IDLE;
#endif
			latched = latched | v_incomplete | v_raised; raised = raised & raised_since_view
		:: else
		fi;
		v_raised = 0; v_entry = 0; v_incomplete = 0
	}
}

active proctype host() {
	mtype mode = IDLE;
	bit queued, flying, v_raised, v_incomplete;
	byte v_entry;

	do
	:: atomic { mode == IDLE && (dead || !present) -> over = 1; break }

	/* set_logging(), then begin() */
	:: mode == IDLE ->
		lock();
		if
		:: log -> mark[log - 1] = 0; logging[log - 1] = 1
		:: else
		fi;
		atomic { on = 1; latched = 0; exposed = present; tracked = 0; raised = 0 }
		look();
		atomic { bql = 0; queued = 1; mode = PASSES }

	/* Reading the page begins. */
	:: atomic { mode == PASSES && queued -> queued = 0; older = 0 }

	/* harvest() in a pass, or in the last one. */
	:: mode == PASSES ->
		if
		:: skip
		:: atomic { !bql -> mode = STOPPED; stopped = 1;
			entry[own] = (entry_store -> entry_store % FREED : entry[own]); entry_store = 0 }
		fi;
		lock();
		if
		:: log ->
			flying = counter[log - 1];
			atomic { queued = queued | mark[log - 1]; mark[log - 1] = 0; older = older | queued }
		:: else
		fi;
#ifdef BREAK_LATCH_IS_LEVEL
		latched = 0;
#endif
#ifdef BREAK_NO_LAST_LOOK
		if
		:: mode != STOPPED -> look()
		:: else
		fi;
#else
		look();
#endif
		atomic {
			bql = 0;
			if
			:: mode == STOPPED ->
				older = older & !(queued | flying | latched);
				assert(!older);
#ifdef BREAK_NEVER_CLEAN
				assert(latched);
#endif
#ifdef BREAK_NEVER_CLEAN_AFTER_REMOVAL
				assert(latched || present || !exposed);
#endif
				/*
				 * The destination: a Domain that has loaded the port. The log
				 * is as it was, with marks and a logging word of old.
				 */
				stopped = 0; mode = LOWERING; on = 0; older = 1; queued = 0;
				exposed = present; latched = present; tracked = 0; raised = 0;
#ifdef KERNELS
				if
				:: skip
				:: log = 0; registered = 0 /* refused there */
				fi
#endif
			:: else
			fi;
			flying = 0
		}

	/* A cancel; or the VM starts to run at the destination, before or after. */
	:: atomic { mode == PASSES && !bql -> mode = LOWERING; on = 0; older = 1; queued = 0 }
	:: atomic {
		mode == LOWERING && !bql -> mode = IDLE;
		if
		:: log -> logging[log - 1] = 0
		:: else
		fi }

#ifdef DEVICES
	/* Domain::remove_device(): its writes are not lost if it was tracked. */
	:: present ->
		lock();
		view();
		atomic {
			if
			:: tracked && IS_TRACKED && !v_incomplete && !v_raised
			:: else -> latch()
			fi;
			v_raised = 0; v_entry = 0; v_incomplete = 0;
			present = 0; given = 0; wild = 0; bql = 0
		}
#endif
	/* add_device(), into a slot that the guest knows to be empty */
	:: atomic {
		!present && !bound && port && !entry[own] && !entry_store ->
		present = 1;
#ifndef BREAK_PLUG_UNSEEN
		exposed = 1; latch();
#endif
		if
		:: skip
		:: wild = 1
		fi }
#ifdef KERNELS
	/* remove_port(), with the device; add_port() */
	:: atomic {
		port && !bql ->
		port = 0; present = 0; given = 0; wild = 0;
		if
		:: registered ->
#ifdef BREAK_PORT_UNPLUG_UNSEEN
			log = 0; registered = 0
#else
			leave()
#endif
		:: else
		fi }
	:: atomic { !port -> port = 1 }
	/*
	 * ram_removed(): what the guest writes to its log goes elsewhere from now
	 * on, in other words to the other log.
	 */
	:: atomic {
		log == own + 1 && !entry_store && !bql ->
		own = 1 - own;
		entry[own] = entry[1 - own]; incomplete[own] = incomplete[1 - own];
		logging[own] = logging[1 - own]; mark[own] = mark[1 - own]; counter[own] = counter[1 - own];
#ifndef BREAK_RAM_GONE_UNSEEN
		leave(); clear(1 - own)
#endif
		}
#endif
	od
}
