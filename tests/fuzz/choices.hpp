// SPDX-License-Identifier: MIT
/** Where a hostile guest takes its decisions from. */
#ifndef PVDIRTY_TESTS_FUZZ_CHOICES_HPP
#define PVDIRTY_TESTS_FUZZ_CHOICES_HPP

#include <cstdint>
#include <random>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>

namespace pvdirty::fuzz {

class Choices {
public:
    Choices() = default;
    Choices(const Choices&) = delete;
    Choices& operator=(const Choices&) = delete;
    virtual ~Choices() = default;

    /** A number below n, which is not 0. */
    virtual std::uint64_t below(std::uint64_t n) = 0;

    std::uint64_t any() { return below(UINT64_MAX); }
    bool chance(std::uint64_t n) { return below(n) == 1; }
    template <class T>
    const T& of(const std::vector<T>& values) {
        return values[below(values.size())];
    }
};

/** The fuzzer's input; 0 once it is used up. */
class InputChoices final : public Choices {
public:
    InputChoices(const std::uint8_t* data, std::size_t size) : input_(data, size) {}

    std::uint64_t below(std::uint64_t n) override {
        return input_.ConsumeIntegralInRange<std::uint64_t>(0, n - 1);
    }
    [[nodiscard]] bool empty() { return input_.remaining_bytes() == 0; }
    std::vector<std::uint8_t> bytes(std::size_t n) { return input_.ConsumeBytes<std::uint8_t>(n); }

private:
    FuzzedDataProvider input_;
};

/** For a guest thread, which cannot share the input: the seed comes from it. */
class SeededChoices final : public Choices {
public:
    explicit SeededChoices(std::uint64_t seed)
        : random_(static_cast<std::minstd_rand::result_type>(seed)) {}

    std::uint64_t below(std::uint64_t n) override {
        return std::uniform_int_distribution<std::uint64_t>(0, n - 1)(random_);
    }

private:
    std::minstd_rand random_;
};

} // namespace pvdirty::fuzz

#endif // PVDIRTY_TESTS_FUZZ_CHOICES_HPP
