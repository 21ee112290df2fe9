// SPDX-License-Identifier: MIT
/** Running properties inside Catch tests: those that hold, and controls that must not. */
#ifndef PVDIRTY_TESTS_PROPERTY_CHECK_HPP
#define PVDIRTY_TESTS_PROPERTY_CHECK_HPP

#include <sstream>
#include <string>
#include <utility>

#include <catch2/catch.hpp>
#include <rapidcheck.h>

namespace pvdirty::test {

inline constexpr int default_cases = 100;

template <class Property>
rc::detail::TestResult examine(Property&& property, int cases, bool shrink) {
    rc::detail::TestParams params = rc::detail::configuration().testParams;
    params.maxSuccess = cases;
    params.disableShrinking = !shrink;
    return rc::detail::checkTestable(std::forward<Property>(property), rc::detail::TestMetadata{},
                                     params);
}

/** Fails the test with the smallest counterexample, if there is one. */
template <class Property>
void holds(Property&& property, int cases = default_cases) {
    const auto result = examine(std::forward<Property>(property), cases, true);
    if (result.template is<rc::detail::SuccessResult>()) {
        SUCCEED(cases << " cases");
        return;
    }
    std::ostringstream message;
    rc::detail::printResultMessage(result, message);
    FAIL(message.str());
}

/** A control: the property must have a counterexample, or it could not fail at all. */
template <class Property>
void is_refuted(Property&& property, int cases = default_cases) {
    const auto result = examine(std::forward<Property>(property), cases, false);
    CHECK(result.template is<rc::detail::FailureResult>());
}

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_CHECK_HPP
