// SPDX-License-Identifier: MIT
/** Each state a VM may be in when a migration starts × each event on the way: what is answered. */
#ifndef PVDIRTY_TESTS_UNIT_POLICY_TABLE_HPP
#define PVDIRTY_TESTS_UNIT_POLICY_TABLE_HPP

#include <optional>
#include <string>
#include <vector>

#include "pvdirty/policy.hpp"
#include "unit/policy/scene.hpp"

namespace pvdirty::test {

/** How a scene is before the session starts. */
struct StateCase {
    const char* name; /**< a column's head */
    const char* what;
    void (*prepare)(Scene&);
};

/** What happens during the session. */
struct EventCase {
    const char* what;
    bool needs_device; /**< else there is nothing it could happen to */
    bool needs_log;
    void (*happen)(Scene&);
    bool needs_end = false; /**< of a migration, which some devices forbid */
};

/** What the three policies make of one thing. */
template <class T>
struct ByPolicy {
    T refuse;
    T all_dirty;
    T blind;
};

/** What the library answers, and what is true. */
struct Answers {
    HarvestResult harvest; /**< of the session in which the event happened */
    HarvestResult later;   /**< the one after it, without an event */
    std::string latched;
    ByPolicy<Round> round;
    ByPolicy<FinalVerdict> final_pass;
    ByPolicy<Verdict> save;
    ByPolicy<Verdict> start; /**< of a new migration after that session */

    bool was_untracked = false; /**< a covered device, at any time of the session */
    bool untracked = false;     /**< when the new migration starts */
    bool in_the_way = false;    /**< at the session's end: a device that must not be there */
    bool awaited = false;       /**< likewise, and the session was told to wait for it */
    bool unsavable = false;     /**< when the new migration starts, which waits for nothing */
};

const std::vector<StateCase>& state_cases();
const std::vector<EventCase>& event_cases();

/** Plays one cell; nothing where the event cannot happen. */
std::optional<Answers> play(const StateCase& state, const EventCase& event);

/**
 * Is a covered device that is or was untracked taken for clean, or migrated quietly? Judged by
 * what is true, not by what the library knows.
 * @returns what is wrong, or ""
 */
std::string judge(const Answers& answers);

/** The document host/session/POLICY.md. */
std::string policy_document();

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_POLICY_TABLE_HPP
