// SPDX-License-Identifier: MIT
/**
 * What is compared. Each subject puts the pages of the chosen tree into the dirty bitmap with an
 * or-store: the library's sink to each word of a group that has any, the others to each word that
 * gets a page.
 */
#ifndef PVDIRTY_TESTS_BENCH_SUBJECTS_HPP
#define PVDIRTY_TESTS_BENCH_SUBJECTS_HPP

#include "bench/vm.hpp"

namespace pvdirty::bench {

/** The library. Returns the number of pages it reports. */
std::uint64_t harvest(Vm& vm);
std::uint64_t scan(Vm& vm);

/**
 * The limit: one atomic exchange for each word of marks that is not 0, unrolled, by somebody who
 * knows beforehand where they are.
 */
void harvest_limit(Vm& vm);
/**
 * The limit: one load for each word of counters that is not 0, unrolled, by somebody who knows
 * beforehand where they are and what they say.
 */
void scan_limit(Vm& vm);

/** What one would write by hand: look at each word of marks, exchange it if it is not 0. */
void harvest_flat(Vm& vm);
/** Look at each word of counters; make a mask of 64 pages from eight that are not all 0. */
void scan_flat(Vm& vm);

} // namespace pvdirty::bench

#endif // PVDIRTY_TESTS_BENCH_SUBJECTS_HPP
