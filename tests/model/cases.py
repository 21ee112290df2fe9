# SPDX-License-Identifier: MIT
"""What is searched: each model as it is, each variant broken on purpose, and controls."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One search. Without a rule the property must hold, with one it must be violated."""

    name: str
    model: str
    defines: tuple[str, ...] = ()
    rule: str = ""  # what the variant breaks
    long: bool = False
    verdict: str = "ok"  # what the runner must say, or how that begins
    depth: int = 12_000_000  # steps; a search that reaches it fails
    memory_mib: int = 4000  # likewise; twice as much for the long ones


def _variants(model: str, defines: tuple[str, ...], rules: dict[str, str]) -> list[Case]:
    return [
        Case(f"{model}: {name}", model, (*defines, f"BREAK_{name}"), rule)
        for name, rule in rules.items()
    ]


# Ranges that each of two drivers maps: 1 the first page, 2 the second, 4 both.
_SAME_PAGE = ("LAYOUT=1", "RANGES_0=1", "RANGES_1=1")
_SAME_WORD = ("LAYOUT=1", "RANGES_0=4", "RANGES_1=2")
_TWO_GROUPS = ("LAYOUT=2", "RANGES_0=4", "RANGES_1=1")
_TWO_SECTIONS = ("LAYOUT=3", "RANGES_0=4", "RANGES_1=1")

MARKS = [
    Case("marks: two pages in a word", "marks", _SAME_WORD),
    Case("marks: two groups", "marks", _TWO_GROUPS),
    Case("marks: two sections", "marks", _TWO_SECTIONS, long=True),
    Case("marks: counters before marks", "marks", (*_SAME_PAGE, "ORACLE")),
    *_variants(
        "marks",
        _SAME_PAGE,
        {
            "NO_FENCE": "1: publish, full fence, then read RAM",
            "NO_DMA_RMB": "2: the device's write before the load of logging",
            "LOWER_FIRST": "3: mark, then lower the counter",
            "READ_FIRST": "4: exchange, then read the page",
            "SET_DOWN": "7: set from leaf to root",
            "CLEAR_UP": "7: clear from root to leaf",
            "NO_TAKE_FENCE": "7: a level is cleared before the next is read",
            "NO_IN_FLIGHT": "9: the last pass adds what is in flight",
            "DISCARD_LATE": "old marks are discarded before logging is published",
            "TRUST_MARKS": "old marks, after a migration too, stand for nothing",
            "TRUST_LOGGING": "an old logging word, after a migration too, stands for nothing",
        },
    ),
    *_variants(
        "marks",
        _SAME_WORD,
        {
            "SKIP_BY_ROOT": "5: the atomic is left out if its own bit is set only",
            "SHARED_WORD": "5: a shared word is cleared by its own range's bits only",
            "LEAVE_REST": "5: what a range leaves behind keeps its bits above",
            "SKIP_LEVELS": "7: every level is looked at each time",
            "NO_RMB": "7: the levels are looked at in that order",
        },
    ),
    *_variants("marks", (*_SAME_PAGE, "ORACLE"), {"COUNTERS_LATE": "9: counters before marks"}),
]

# A counter sticks at this value: two of two drivers reach it, or never, or at once.
_STICKS = ("STUCK=2",)
_COUNTS = ("LAYOUT=1", "STUCK=3")
_STICKS_AT_ONCE = ("LAYOUT=1", "STUCK=1")

COUNTS = [
    Case("counts: two pages in a word", "counts", _COUNTS),
    Case("counts: a counter sticks", "counts", ("LAYOUT=1", *_STICKS)),
    Case("counts: two groups", "counts", ("LAYOUT=2", *_STICKS)),
    Case("counts: two sections", "counts", ("LAYOUT=3", *_STICKS)),
    *_variants(
        "counts",
        _COUNTS,
        {
            "GIVE_FIRST": "3: raise, then give the address",
            "PLAIN_COUNT": "8: counters are raised by a locked instruction",
            "LEVELS_FIRST": "8: raise leaf, summary, root",
            "SKIP_LEVELS": "8: every level is looked at each time",
            "NO_RMB": "8: the levels are looked at in that order",
            "NO_PRUNE_FENCE": "8: prune: clear, full fence, look again",
            "NO_SECOND_LOOK": "8: prune: look again, a summary",
            "NO_SECOND_LOOK_AT_ROOT": "8: prune: look again, the root",
            "GIVE_EARLY": "9: no address before summary and root are set",
        },
    ),
    *_variants(
        "counts",
        _STICKS_AT_ONCE,
        {"WRAP": "6: a counter saturates", "UNSTICK": "6: a full counter stays"},
    ),
]

BASELINE = "BASELINE_FROM_VIEW"
_DEVICES = ("DEVICES",)
_KERNELS = ("KERNELS",)

SESSION = [
    Case("session: devices and kernels", "session", (*_DEVICES, *_KERNELS)),
    Case("session: devices, gaps kept by the first look", "session", (*_DEVICES, BASELINE)),
    *_variants(
        "session",
        _DEVICES,
        {
            "NO_GAP": "10: who stops being tracked raises gaps",
            "GAP_FIRST": "10: first the entry, then gaps",
            "GAP_NOT_LOCKED": "10: the entry is seen before gaps are",
            "RETURN_UNSEEN": "10: an entry that appears as untracked raises gaps",
            "TRACKED_EARLY": "10: tracked is who writes only what was mapped",
            "INCOMPLETE_LATE": "10: incomplete, then the address",
            "INCOMPLETE_CLEARED": "10: incomplete stays",
            "SILENCE_TRUSTED": "10: no entry is not tracked",
            "LATCH_IS_LEVEL": "10: complete is a latch, not a level",
            "NO_LAST_LOOK": "10: the last pass looks too",
            "PLUG_UNSEEN": "10: hot-plug is latched",
            "NEVER_CLEAN": "(control) a migration may end without 'all dirty'",
            "NEVER_CLEAN_AFTER_REMOVAL": "(control) so may one with a removal in good order",
        },
    ),
    *_variants("session", (*_DEVICES, BASELINE), {"DEVICES_FIRST": "10: gaps, then the entries"}),
    *_variants(
        "session",
        _KERNELS,
        {
            "ENUMERATED_UNSEEN": "10: a new kernel's enumeration drops the registration",
            "LEAVE_UNSEEN": "10: reset and unregistration are latched",
            "PORT_UNPLUG_UNSEEN": "10: the unplug of a port is latched",
            "RAM_GONE_UNSEEN": "10: a log whose RAM goes is dropped",
            "EXPOSED_IS_LEVEL": "10: what a device wrote counts after it has gone",
        },
    ),
]

LEAVE = [
    Case("leave: devices that must be gone before the end", "leave"),
    *_variants(
        "leave",
        (),
        {
            "NO_HOLD": "rounds hold the end: without it the migration fails by the check",
            "NO_CHECK": "a migration that ends nevertheless fails",
            "REMOVED_IS_UNPLUGGED": "the end waits for removed, not for unplugged",
            "HOLD_ENDS_AT_REQUEST": "a request to let go does not end the hold",
            "STARTS_UNSAVABLE": "none starts with a state that cannot be saved, unless it waits",
            "UNPLUGGED_STARTS": "nor while something is left of such a device",
            "HOLD_STAYS": "a cancel ends the hold: who did not ask does not wait",
        },
    ),
    Case(
        "leave: NO_HOLD and NO_CHECK",
        "leave",
        ("BREAK_NO_HOLD", "BREAK_NO_CHECK"),
        "neither hold nor check",
    ),
]

# The runner must tell each way in which a search proves nothing.
_CUT_OFF = "not exhaustive: max search depth too small"
_NO_MEMORY = "not exhaustive: Search not completed"
_LOSS = "assertion violated  !(older)"
_FINISHED = ("LAYOUT=1", "STUCK=2")

CONTROLS = [
    Case("control: cut off", "counts", _FINISHED, verdict=_CUT_OFF, depth=1000),
    Case("control: out of memory", "counts", _FINISHED, verdict=_NO_MEMORY, memory_mib=5),
    Case("control: code that is not reached", "session", verdict="unreached: "),
    Case("control: a loss", "session", (*_DEVICES, "BREAK_NO_GAP"), verdict=_LOSS),
    Case("control: a variant that loses nothing", "counts", _COUNTS, "none", verdict="NOT CAUGHT"),
]

CASES = MARKS + COUNTS + SESSION + LEAVE + CONTROLS
