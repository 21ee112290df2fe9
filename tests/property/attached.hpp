// SPDX-License-Identifier: MIT
/** A guest's log that the host has attached. */
#ifndef PVDIRTY_TESTS_PROPERTY_ATTACHED_HPP
#define PVDIRTY_TESTS_PROPERTY_ATTACHED_HPP

#include <utility>

#include <rapidcheck.h>

#include "guest/guest_log.hpp"
#include "guest/page_set.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty::test {

struct Attached : Guest {
    Log host;

    explicit Attached(const std::vector<SectionSpec>& sections)
        : Guest(sections), host(std::move(*Log::attach(ram, log.addr(), log.pages()))) {}

    /** A harvest whose report is well-formed and has as many pages as it says. */
    PageSet harvest(PageRange range = all_pages) {
        Collector collector;
        const std::uint64_t pages = host.harvest(PageSink(collector), range);
        RC_ASSERT(collector.ok());
        RC_ASSERT(collector.count() == pages);
        return collector.pages();
    }
    PageSet scan() {
        Collector collector;
        const std::uint64_t pages = host.scan(PageSink(collector));
        RC_ASSERT(collector.ok());
        RC_ASSERT(collector.count() == pages);
        return collector.pages();
    }
    [[nodiscard]] bool outside() const {
        return (log.control().incomplete & 1U << PVDIRTY_I_OUTSIDE) != 0;
    }
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_ATTACHED_HPP
