// SPDX-License-Identifier: MIT
/*
 * The C API: a thin shim over pvdirty::Domain. Every function is noexcept: the only exception that
 * can reach it is exhausted memory, which ends the process as it does in the VMMs that use this.
 */
#include "pvdirty/pvdirty.h"

#include <memory>
#include <span>
#include <string>
#include <tuple>

#include "capi/handles.hpp"
#include "pvdirty/domain.hpp"
#include "pvdirty/policy.hpp"
#include "pvdirty/stream.hpp"

static_assert(PVD_PORT_STATE_LEN == pvdirty::port_state_len);
static_assert(PVD_GROUP_WORDS == std::tuple_size_v<pvdirty::GroupMasks>);
static_assert(PVD_STREAM_STATE_LEN == pvdirty::stream_state_len);

using pvdirty::capi::copy_text;
using pvdirty::capi::VmmMemory;

namespace {

pvdirty::Policy policy_of(const pvd_policy& policy) noexcept {
    return {.on_incomplete = policy.on_incomplete == PVD_ALL_DIRTY
                                 ? pvdirty::OnIncomplete::all_dirty
                                 : pvdirty::OnIncomplete::refuse,
            .final_limit = policy.final_limit,
            .blind = policy.blind};
}

/* A kind that this version does not know is none that is right with a covered device. */
pvdirty::MigrationKind kind_of(pvd_migration kind) noexcept {
    switch (kind) {
    case PVD_PRE_COPY:
        return pvdirty::MigrationKind::pre_copy;
    case PVD_POST_COPY:
        return pvdirty::MigrationKind::post_copy;
    case PVD_BACKGROUND_SNAPSHOT:
        return pvdirty::MigrationKind::background_snapshot;
    case PVD_COLO:
        return pvdirty::MigrationKind::colo;
    case PVD_SAVEVM:
        break;
    }
    return pvdirty::MigrationKind::savevm;
}

} // namespace

struct pvd_port {
    pvd_domain& owner;
    pvdirty::Port& port;
};

struct pvd_device {
    pvd_domain& owner;
    pvdirty::Device& device;
};

// The prototypes are in pvdirty.h; noexcept is ours, so that no exception crosses into C.
struct pvd_domain* pvd_domain_new(const struct pvd_vmm_ops* ops, void* opaque,
                                  uint32_t id) noexcept {
    return std::make_unique<pvd_domain>(*ops, opaque, id).release();
}

void pvd_domain_free(struct pvd_domain* d) noexcept {
    delete d;
}

void pvd_domain_limit_sections(struct pvd_domain* d, uint32_t sections) noexcept {
    d->domain.limit_sections(sections);
}

struct pvd_port* pvd_port_new(struct pvd_domain* d, const char* name,
                              uint32_t host_features) noexcept {
    return std::make_unique<pvd_port>(pvd_port{*d, d->domain.add_port(name, host_features)})
        .release();
}

void pvd_port_free(struct pvd_port* p) noexcept {
    p->owner.domain.remove_port(p->port);
    delete p;
}

const uint8_t* pvd_port_config(const struct pvd_port* p) noexcept {
    return p->port.capability().bytes().data();
}

void pvd_port_config_write(struct pvd_port* p, uint32_t offset, uint32_t value,
                           uint32_t len) noexcept {
    p->port.write(offset, value, len);
}

bool pvd_port_registered(const struct pvd_port* p) noexcept {
    return p->port.capability().registered();
}

void pvd_port_reset(struct pvd_port* p) noexcept {
    p->port.reset();
}

void pvd_port_enumerated(struct pvd_port* p) noexcept {
    p->port.enumerated();
}

struct pvd_device* pvd_device_add(struct pvd_port* p, const char* name, void* opaque) noexcept {
    const VmmMemory& memory = p->owner.memory;
    pvdirty::Device& device =
        p->owner.domain.add_device(p->port, name, [&memory, opaque] { return memory.rid(opaque); });
    return std::make_unique<pvd_device>(pvd_device{p->owner, device}).release();
}

void pvd_device_unplugged(struct pvd_device* dev) noexcept {
    dev->owner.domain.unplug_device(dev->device);
}

void pvd_device_set_migratable(struct pvd_device* dev, bool migratable) noexcept {
    dev->owner.domain.set_migratable(dev->device, migratable);
}

void pvd_device_hold(struct pvd_device* dev, bool hold) noexcept {
    dev->owner.domain.hold_for(dev->device, hold);
}

void pvd_device_remove(struct pvd_device* dev) noexcept {
    dev->owner.domain.remove_device(dev->device);
    delete dev;
}

void pvd_ram_removed(struct pvd_domain* d, uint64_t gpa, uint64_t len) noexcept {
    d->domain.ram_removed(gpa, len);
}

bool pvd_domain_complete(struct pvd_domain* d, char* why, size_t why_len) noexcept {
    const auto reason = d->domain.why_incomplete();
    copy_text(reason.value_or(""), why, why_len);
    return !reason;
}

bool pvd_device_tracked(const struct pvd_device* dev, char* why, size_t why_len) noexcept {
    const auto reason = dev->owner.domain.why_untracked(dev->device);
    copy_text(reason.value_or(""), why, why_len);
    return !reason;
}

void pvd_logging(struct pvd_domain* d, enum pvd_logger who, bool on) noexcept {
    d->domain.set_logging(
        who == PVD_LOGGER_SESSION ? pvdirty::Logger::session : pvdirty::Logger::dirty_log, on);
}

void pvd_domain_running(struct pvd_domain* d) noexcept {
    d->domain.running();
}

struct pvd_harvest_result pvd_harvest(struct pvd_domain* d, const struct pvd_sink* sink) noexcept {
    const auto hand_to = [sink](pvd_pages_fn* function) {
        return [sink, function](std::uint64_t first_pfn, const pvdirty::GroupMasks& masks) {
            if (function != nullptr) {
                function(sink->opaque, first_pfn, masks.data());
            }
        };
    };
    auto in_flight = hand_to(sink->in_flight);
    auto marked = hand_to(sink->marked);
    const pvdirty::HarvestResult result =
        d->domain.harvest(pvdirty::PageSink(in_flight), pvdirty::PageSink(marked));
    return {result.pages_marked, result.pages_in_flight, result.all_dirty};
}

bool pvd_page_in_flight(struct pvd_domain* d, uint64_t pfn) noexcept {
    return d->domain.page_in_flight(pfn);
}

uint64_t pvd_domain_pending(const struct pvd_domain* d) noexcept {
    return d->domain.pending();
}

void pvd_domain_stats(const struct pvd_domain* d, struct pvd_stats* out) noexcept {
    const pvdirty::Statistics& statistics = d->domain.statistics();
    const auto& log = d->domain.log();
    *out = {.registered = log.has_value(),
            .logging = d->domain.logging(),
            .log_addr = log ? log->addr() : 0,
            .log_pages = log ? log->pages() : 0,
            .sections = log ? log->sections() : 0,
            .harvests = statistics.harvests,
            .pages_marked = statistics.pages_marked,
            .pages_in_flight = statistics.pages_in_flight,
            .answered_all_dirty = statistics.answered_all_dirty};
}

const char* pvd_domain_latched(const struct pvd_domain* d) noexcept {
    return d->domain.latched().c_str();
}

bool pvd_may_migrate(const struct pvd_domain* d, const struct pvd_policy* policy, char* message,
                     size_t len) noexcept {
    const auto why = policy_of(*policy).why_blocked(d->domain);
    copy_text(why.value_or(""), message, len);
    return !why;
}

bool pvd_may_start(const struct pvd_domain* d, const struct pvd_policy* policy,
                   enum pvd_migration kind, uint64_t ram_bytes, char* message,
                   size_t len) noexcept {
    const auto verdict = policy_of(*policy).may_start(d->domain, kind_of(kind), ram_bytes);
    copy_text(verdict.message, message, len);
    return verdict.allowed;
}

struct pvd_round pvd_check_round(const struct pvd_domain* d, const struct pvd_policy* policy,
                                 uint64_t ram_bytes, uint64_t threshold) noexcept {
    const auto round = policy_of(*policy).round(d->domain, ram_bytes, threshold);
    return {round.pending_bytes, round.fail, round.hold, round.awaits_device};
}

void pvd_why_failing(const struct pvd_domain* d, const struct pvd_policy* policy,
                     uint64_t ram_bytes, char* message, size_t len) noexcept {
    copy_text(policy_of(*policy).why_failing(d->domain, ram_bytes), message, len);
}

enum pvd_final_pass pvd_check_final_pass(const struct pvd_domain* d,
                                         const struct pvd_policy* policy, uint64_t ram_bytes,
                                         char* message, size_t len) noexcept {
    const auto verdict = policy_of(*policy).final_pass(d->domain, ram_bytes);
    copy_text(verdict.message, message, len);
    switch (verdict.pass) {
    case pvdirty::FinalPass::reported:
        return PVD_FINAL_REPORTED;
    case pvdirty::FinalPass::all_dirty:
        return PVD_FINAL_ALL_DIRTY;
    case pvdirty::FinalPass::fail:
        break;
    }
    return PVD_FINAL_FAIL;
}

bool pvd_may_save(const struct pvd_domain* d, const struct pvd_policy* policy, uint64_t ram_bytes,
                  bool final, char* message, size_t len) noexcept {
    const auto verdict = policy_of(*policy).may_save(d->domain, ram_bytes, final);
    copy_text(verdict.message, message, len);
    return verdict.allowed;
}

void pvd_stream_save(const struct pvd_domain* d, uint8_t out[PVD_STREAM_STATE_LEN]) noexcept {
    pvdirty::save_stream(d->domain,
                         std::span<std::uint8_t, PVD_STREAM_STATE_LEN>(out, PVD_STREAM_STATE_LEN));
}

bool pvd_stream_load(const struct pvd_domain* d, const uint8_t* in, size_t len, char* why,
                     size_t why_len) noexcept {
    const auto loaded = pvdirty::check_stream(d->domain, {in, len});
    copy_text(loaded ? std::string() : loaded.error(), why, why_len);
    return loaded.has_value();
}

void pvd_port_save(const struct pvd_port* p, uint8_t out[PVD_PORT_STATE_LEN]) noexcept {
    p->port.save(std::span<std::uint8_t, PVD_PORT_STATE_LEN>(out, PVD_PORT_STATE_LEN));
}

bool pvd_port_load(struct pvd_port* p, const uint8_t* in, size_t len, char* why,
                   size_t why_len) noexcept {
    const auto loaded = p->port.load({in, len});
    copy_text(loaded ? std::string() : loaded.error(), why, why_len);
    return loaded.has_value();
}
