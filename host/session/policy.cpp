// SPDX-License-Identifier: MIT
/* The policy: which answer in which state. */
#include "pvdirty/policy.hpp"

namespace pvdirty {

namespace {

std::string_view name_of(MigrationKind kind) noexcept {
    switch (kind) {
    case MigrationKind::pre_copy:
        return "pre-copy";
    case MigrationKind::post_copy:
        return "post-copy";
    case MigrationKind::savevm:
        return "savevm";
    case MigrationKind::background_snapshot:
        return "a background snapshot";
    case MigrationKind::colo:
        return "COLO";
    }
    return "this kind of migration";
}

std::string size_text(std::uint64_t bytes) {
    return bytes < (std::uint64_t{16} << 20) ? std::to_string(bytes >> 10) + " KiB"
                                             : std::to_string(bytes >> 20) + " MiB";
}

std::string still_there(const Device& device) {
    return device.label() + ": is still there, and was to be taken out before the end";
}

constexpr std::uint64_t all = UINT64_MAX; // of Domain::pending()

} // namespace

/* Is this too much for the final pass? From any thread: no strings. */
bool Policy::over(std::uint64_t pending, std::uint64_t ram_bytes) const noexcept {
    if (pending != all) {
        return pending << PVDIRTY_PAGE_SHIFT > limit(ram_bytes);
    }
    if (blind) {
        return false;
    }
    return on_incomplete == OnIncomplete::refuse || (final_limit != 0 && ram_bytes > final_limit);
}

std::uint64_t Policy::limit(std::uint64_t ram_bytes) const noexcept {
    return final_limit != 0 ? final_limit : ram_bytes / 2;
}

std::string Policy::too_much(const std::string& why, std::uint64_t ram_bytes) const {
    return "all RAM, " + size_text(ram_bytes) + ", would be sent while the VM is stopped, more " +
           "than the limit of " + size_text(final_limit) + ": " + why;
}

std::optional<std::string> Policy::why_blocked(const Domain& domain) const {
    if (const Device* device = domain.unmigratable()) {
        return device->label() + ": its state cannot be migrated; unplug it, or have it taken out "
                                 "before the end (pvdirty migrate --policy unplug)";
    }
    if (blind || on_incomplete == OnIncomplete::all_dirty) {
        return std::nullopt;
    }
    if (const auto why = domain.why_incomplete()) {
        return "the guest does not track all DMA: " + *why +
               "; load its pvdirty module before the drivers, or unplug the device";
    }
    return std::nullopt;
}

Verdict Policy::may_start(const Domain& domain, MigrationKind kind, std::uint64_t ram_bytes) const {
    if (kind != MigrationKind::pre_copy && domain.covers()) {
        return {false, std::string(name_of(kind)) +
                           " cannot be right with a device below a port; unplug it first"};
    }
    if (auto why = why_blocked(domain)) {
        return {false, std::move(*why)};
    }
    const std::uint64_t pending = domain.in_session() ? domain.pending() : 0;
    if (over(pending, ram_bytes)) {
        return {false, why_failing(domain, ram_bytes)};
    }
    if (blind || on_incomplete == OnIncomplete::refuse) {
        return {};
    }
    auto why = domain.why_incomplete();
    if (!why && pending == all) {
        why = domain.latched();
    }
    if (!why) {
        return {};
    }
    if (over(all, ram_bytes)) {
        return {false, too_much(*why, ram_bytes)};
    }
    return {true, "the guest does not track all DMA: " + *why +
                      "; all RAM will be sent while the VM is stopped"};
}

Round Policy::round(const Domain& domain, std::uint64_t ram_bytes,
                    std::uint64_t threshold) const noexcept {
    const std::uint64_t pending = domain.pending();
    if (over(pending, ram_bytes)) {
        return {.fail = true};
    }
    /*
     * "All dirty" that the operator accepted does not count: if it did, only a downtime limit that
     * all of RAM fits in would let the migration end.
     */
    const std::uint64_t bytes = pending == all ? 0 : pending << PVDIRTY_PAGE_SHIFT;
    const bool awaits_device = domain.holding();
    return {.pending_bytes = bytes,
            .hold = awaits_device || (bytes != 0 && bytes >= threshold),
            .awaits_device = awaits_device};
}

std::string Policy::why_failing(const Domain& domain, std::uint64_t ram_bytes) const {
    const std::uint64_t pending = domain.pending();
    if (!over(pending, ram_bytes)) {
        return {};
    }
    if (pending != all) {
        return size_text(pending << PVDIRTY_PAGE_SHIFT) +
               " are in flight, more than the limit of " + size_text(limit(ram_bytes));
    }
    return on_incomplete == OnIncomplete::refuse
               ? "the guest no longer tracks all DMA: " + domain.latched()
               : too_much(domain.latched(), ram_bytes);
}

FinalVerdict Policy::final_pass(const Domain& domain, std::uint64_t ram_bytes) const {
    if (const Device* device = domain.in_the_way()) {
        return {FinalPass::fail, still_there(*device)};
    }
    if (auto why = why_failing(domain, ram_bytes); !why.empty()) {
        return {FinalPass::fail, std::move(why)};
    }
    if (domain.pending() != all || blind) {
        return {};
    }
    return {FinalPass::all_dirty, "all RAM is sent while the VM is stopped: " + domain.latched()};
}

Verdict Policy::may_save(const Domain& domain, std::uint64_t ram_bytes, bool final) const {
    const bool in_session = final && domain.in_session();
    if (const Device* device = in_session ? domain.in_the_way() : nullptr) {
        return {false, still_there(*device)};
    }
    if (blind) {
        return {};
    }
    if (!final && domain.covers()) {
        return {false, "only a pre-copy migration can be right with a device below a port; "
                       "unplug it first"};
    }
    if (in_session) {
        if (auto why = why_failing(domain, ram_bytes); !why.empty()) {
            return {false, std::move(why)};
        }
    }
    return {};
}

} // namespace pvdirty
