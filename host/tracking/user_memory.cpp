// SPDX-License-Identifier: MIT
#include "tracking/user_memory.hpp"

#include <sys/uio.h>
#include <unistd.h>

namespace pvdirty {

namespace {

using Transfer = decltype(process_vm_readv);

bool copy(Transfer& transfer, void* local, const void* remote, std::size_t len) noexcept {
    const iovec here{local, len};
    const iovec there{const_cast<void*>(remote), len};
    return transfer(getpid(), &here, 1, &there, 1, 0) == static_cast<ssize_t>(len);
}

} // namespace

bool copy_from_user(void* to, const void* from, std::size_t len) noexcept {
    return copy(process_vm_readv, to, from, len);
}

bool copy_to_user(void* to, const void* from, std::size_t len) noexcept {
    return copy(process_vm_writev, const_cast<void*>(from), to, len);
}

} // namespace pvdirty
