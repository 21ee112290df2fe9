// SPDX-License-Identifier: MIT
#include "guest/machine.hpp"

#include <algorithm>
#include <climits>
#include <cstddef>

namespace pvdirty::test {

namespace {

constexpr unsigned word_size = 8;

const std::byte* word_at(const void* where) noexcept {
    return static_cast<const std::byte*>(where) -
           reinterpret_cast<std::uintptr_t>(where) % word_size;
}

std::uintptr_t word_of(const void* where) noexcept {
    return reinterpret_cast<std::uintptr_t>(word_at(where));
}

/* Some bytes of a word's value. */
std::uint64_t part(std::uint64_t word, const void* where, unsigned size) noexcept {
    const auto offset = reinterpret_cast<std::uintptr_t>(where) % word_size;
    const std::uint64_t value = word >> (offset * CHAR_BIT);
    return size == word_size ? value : value & ((std::uint64_t{1} << (size * CHAR_BIT)) - 1);
}

} // namespace

Machine::Cpu* Machine::current() noexcept {
    auto* const cpu =
        std::find_if(cpus_.begin(), cpus_.end(), [](const Cpu& c) { return c.fiber.inside(); });
    return cpu == cpus_.end() ? nullptr : &*cpu;
}

void Machine::start(unsigned cpu, std::function<void()> function) {
    finish(cpu);
    cpus_[cpu].fiber.start(std::move(function));
}

void Machine::step(unsigned cpu, unsigned accesses, bool stale) {
    Cpu& c = cpus_[cpu];
    if (!c.fiber.idle()) {
        c.budget = accesses;
        c.stale = stale;
        c.fiber.resume();
    }
}

void Machine::finish(unsigned cpu) {
    step(cpu, UINT_MAX, false);
}

bool Machine::idle() const noexcept {
    return std::all_of(cpus_.begin(), cpus_.end(), [](const Cpu& c) { return c.fiber.idle(); });
}

void Machine::abandon() {
    for (Cpu& cpu : cpus_) {
        cpu.fiber.abandon();
        cpu.barrier = cpu.performed = now_;
        cpu.loaded.clear();
    }
    drain();
    history_.clear();
}

/* Before each access of a guest's CPU. */
void Machine::pause() {
    if (Cpu* cpu = current()) {
        while (cpu->budget == 0) {
            cpu->fiber.leave();
        }
        cpu->budget--;
    }
}

void Machine::about_to_change(const void* where) {
    History& history = history_[word_of(where)];
    if (history.empty()) {
        history.emplace_back(0, read(word_at(where), word_size));
    }
}

void Machine::changed(const void* where) {
    history_[word_of(where)].emplace_back(++now_, read(word_at(where), word_size));
}

void Machine::sees_completion() {
    if (Cpu* cpu = current()) {
        cpu->performed = now_;
    }
}

void Machine::store(std::uint32_t* where, std::uint32_t value) {
    pause();
    about_to_change(where);
    write(where, sizeof(value), value);
    changed(where);
    guest_wrote(where);
}

std::uint64_t Machine::guest_load(const void* where, unsigned size) {
    pause();
    Cpu* cpu = current();
    const auto found = history_.find(word_of(where));
    if (cpu == nullptr || found == history_.end()) {
        return read(where, size); // it has never changed
    }
    std::uint64_t& loaded = cpu->loaded[word_of(where)];
    const std::uint64_t time = cpu->stale ? std::max(cpu->barrier, loaded) : now_;
    loaded = time;
    cpu->performed = std::max(cpu->performed, time);
    const History& history = found->second;
    const auto after =
        std::upper_bound(history.begin(), history.end(), time,
                         [](std::uint64_t t, const auto& entry) { return t < entry.first; });
    return part(std::prev(after)->second, where, size);
}

void Machine::guest_exchange(void* where) {
    pause();
    about_to_change(where);
}

/* A full barrier when it was done; when not, a load that was not early. */
void Machine::guest_exchanged(void* where, bool done) {
    if (done) {
        changed(where);
        guest_wrote(where);
    }
    if (Cpu* cpu = current()) {
        cpu->loaded[word_of(where)] = now_;
        cpu->performed = now_;
        cpu->barrier = done ? now_ : cpu->barrier;
    }
}

void Machine::guest_rmb() {
    if (Cpu* cpu = current()) {
        cpu->barrier = cpu->performed;
    }
}

void Machine::host_accesses(const void* where) {
    if (on_host_access_) {
        on_host_access_(where);
    }
}

void Machine::guest_wrote(const void* where) {
    if (on_guest_write_) {
        on_guest_write_(where);
    }
}

void Machine::drain() {
    for (const Buffered& store : buffer_) {
        about_to_change(store.where);
        write(store.where, store.size, store.value);
        changed(store.where);
    }
    buffer_.clear();
}

std::uint64_t Machine::host_load(const void* where, unsigned size) {
    host_accesses(where);
    const auto own = std::find_if(buffer_.rbegin(), buffer_.rend(),
                                  [where](const Buffered& store) { return store.where == where; });
    return own != buffer_.rend() ? own->value : read(where, size);
}

void Machine::host_store(void* where, unsigned size, std::uint64_t value) {
    host_accesses(where);
    buffer_.push_back({where, size, value});
}

void Machine::host_exchange(void* where) {
    drain();
    host_accesses(where);
    about_to_change(where);
}

void Machine::host_fence() {
    drain();
    host_accesses(nullptr);
}

} // namespace pvdirty::test
