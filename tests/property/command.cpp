// SPDX-License-Identifier: MIT
#include "property/command.hpp"

#include <array>
#include <cstddef>
#include <utility>

namespace pvdirty::test {

namespace {

constexpr std::array<const char*, Command::log_gone + 1> names = {
    "map",    "unmap",  "sync",      "write",       "stick",      "step",    "finish",
    "unbind", "bind",   "retire",    "stray",       "start",      "harvest", "copy",
    "stop",   "cancel", "enter",     "leave",       "reset_port", "reset",   "crash",
    "plug",   "unplug", "plug_port", "unplug_port", "log_gone"};

using Weights = std::vector<std::pair<std::size_t, Command::Kind>>;

const Weights traffic = {{36, Command::map},   {36, Command::unmap}, {9, Command::sync},
                         {42, Command::write}, {3, Command::stick},  {30, Command::step},
                         {9, Command::finish}, {18, Command::start}, {24, Command::harvest},
                         {12, Command::copy},  {15, Command::stop},  {2, Command::cancel}};

const Weights unsteady = {{3, Command::unbind}, {3, Command::bind},    {1, Command::retire},
                          {4, Command::stray},  {6, Command::step},    {3, Command::finish},
                          {4, Command::start},  {2, Command::harvest}, {2, Command::stop},
                          {1, Command::plug},   {1, Command::unplug}};

const Weights trouble = {{3, Command::unbind},      {3, Command::bind},    {1, Command::retire},
                         {9, Command::stray},       {1, Command::enter},   {1, Command::leave},
                         {1, Command::reset},       {1, Command::crash},   {1, Command::reset_port},
                         {1, Command::plug},        {1, Command::unplug},  {1, Command::plug_port},
                         {1, Command::unplug_port}, {1, Command::log_gone}};

rc::Gen<std::vector<Command>> life(const Weights& weights) {
    std::vector<Command::Kind> urn;
    for (const auto& [weight, kind] : weights) {
        urn.insert(urn.end(), weight, kind);
    }
    const auto number = rc::gen::inRange(0U, 1000U);
    return rc::gen::scale(2.0, rc::gen::container<std::vector<Command>>(rc::gen::apply(
                                   [](Command::Kind kind, unsigned a, unsigned b, unsigned c) {
                                       return Command{kind, a, b, c};
                                   },
                                   rc::gen::elementOf(urn), number, number, number)));
}

} // namespace

rc::Gen<std::vector<Command>> quiet_life() {
    return life(traffic);
}

rc::Gen<std::vector<Command>> unsteady_life() {
    return life(unsteady);
}

rc::Gen<std::vector<Command>> any_life() {
    Weights all = traffic;
    all.insert(all.end(), trouble.begin(), trouble.end());
    return life(all);
}

std::ostream& operator<<(std::ostream& out, const Command& command) {
    return out << names[command.kind] << '(' << command.a << ' ' << command.b << ' ' << command.c
               << ')';
}

} // namespace pvdirty::test
