// SPDX-License-Identifier: MIT
#include "cli/signals.hpp"

#include <poll.h>
#include <sys/signalfd.h>

namespace pvdirty::cli {

Signals::Signals() {
    sigset_t caught;
    sigemptyset(&caught);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        sigaddset(&caught, signal);
    }
    pthread_sigmask(SIG_BLOCK, &caught, &before_);
    fd_ = Descriptor(::signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd_) {
        // Better a command that a signal ends than one that none can.
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }

    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &pipe_before_);
}

Signals::~Signals() {
    // What was caught has been obeyed: it must not strike when it is let through again.
    signalfd_siginfo obeyed{};
    while (::read(fd_.get(), &obeyed, sizeof(obeyed)) > 0) {
    }
    ::sigaction(SIGPIPE, &pipe_before_, nullptr);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

bool Signals::interrupted() const noexcept {
    pollfd ready{fd_.get(), POLLIN, 0};
    return ::poll(&ready, 1, 0) > 0;
}

} // namespace pvdirty::cli
