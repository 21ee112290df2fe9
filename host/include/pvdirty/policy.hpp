// SPDX-License-Identifier: MIT
/** What a VMM does about a migration: may it start, go on, end, and with which pages. */
#ifndef PVDIRTY_POLICY_HPP
#define PVDIRTY_POLICY_HPP

#include <cstdint>
#include <optional>
#include <string>

#include "pvdirty/domain.hpp"

namespace pvdirty {

/** What happens while a covered device is not tracked completely. */
enum class OnIncomplete : std::uint8_t {
    refuse,    /**< a migration does not start, or fails */
    all_dirty, /**< it goes on, and all RAM is sent once the VM is stopped */
};

/** How the VMM saves the VM. With a covered device, only pre-copy can be right. */
enum class MigrationKind : std::uint8_t { pre_copy, post_copy, savevm, background_snapshot, colo };

/** May it? And what to tell the operator, in one line. */
struct Verdict {
    bool allowed = true;
    std::string message; /**< why not; or, when allowed, a warning, or "" */
};

/** A round of a running migration. */
struct Round {
    std::uint64_t pending_bytes = 0; /**< that only the final pass will add */
    bool fail = false;               /**< the migration must fail: Policy::why_failing() */
    bool hold = false;               /**< no end in this round: wait before the next */
    bool awaits_device = false;      /**< the reason, or one: Domain::holding() */
};

/** What the final pass has to send. */
enum class FinalPass : std::uint8_t {
    reported,  /**< the marks and the pages in flight */
    all_dirty, /**< all RAM */
    fail,      /**< nothing: the migration must fail */
};

struct FinalVerdict {
    FinalPass pass = FinalPass::reported;
    std::string message; /**< for all_dirty and fail, in one line */
};

/**
 * The operator's choice, and what follows from it in each state of a domain. Nothing here changes
 * the domain. Threads: as Domain; round() from any thread.
 */
struct Policy {
    OnIncomplete on_incomplete = OnIncomplete::refuse;
    /**
     * Bytes that the final pass may add; 0: half of RAM in flight, and no limit for "all dirty"
     * where the operator accepts it.
     */
    std::uint64_t final_limit = 0;
    /** For tests only: incomplete tracking is taken for clean, and DATA IS LOST. */
    bool blind = false;

    /** Why no migration may start now, before one is asked for; nothing when one may. */
    [[nodiscard]] std::optional<std::string> why_blocked(const Domain& domain) const;

    /**
     * May this migration start? To be asked after its session has started, so that what is latched
     * since counts too. Its message may be a warning.
     * @param ram_bytes guest RAM
     */
    [[nodiscard]] Verdict may_start(const Domain& domain, MigrationKind kind,
                                    std::uint64_t ram_bytes) const;

    /**
     * What the final pass will add, as of the last harvest. While a device that must leave first is
     * there, hold is set; a VMM then must not end the migration, whatever else is pending.
     * @param threshold bytes that the VMM would send with the VM stopped
     */
    [[nodiscard]] Round round(const Domain& domain, std::uint64_t ram_bytes,
                              std::uint64_t threshold) const noexcept;
    /** Why a round said fail; "" when the next would not. */
    [[nodiscard]] std::string why_failing(const Domain& domain, std::uint64_t ram_bytes) const;

    /**
     * To be asked with the VM stopped for good, after the harvest of the final pass: what happened
     * between the last round and the stop counts here.
     */
    [[nodiscard]] FinalVerdict final_pass(const Domain& domain, std::uint64_t ram_bytes) const;

    /**
     * May the state of a port be saved now?
     * @param final the VM is stopped for good, and the final pass of a pre-copy has been sent
     */
    [[nodiscard]] Verdict may_save(const Domain& domain, std::uint64_t ram_bytes, bool final) const;

private:
    [[nodiscard]] bool over(std::uint64_t pending, std::uint64_t ram_bytes) const noexcept;
    [[nodiscard]] std::uint64_t limit(std::uint64_t ram_bytes) const noexcept;
    [[nodiscard]] std::string too_much(const std::string& why, std::uint64_t ram_bytes) const;
};

} // namespace pvdirty

#endif // PVDIRTY_POLICY_HPP
