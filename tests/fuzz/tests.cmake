# SPDX-License-Identifier: MIT
# Builds the fuzz programs with clang, as a project of their own, and adds their tests.
include(ExternalProject)

find_program(PVDIRTY_CLANGXX clang++-14 DOC "Compiler of the fuzz programs")
set(fuzz_dir ${CMAKE_CURRENT_BINARY_DIR}/fuzz)
if(NOT PVDIRTY_CLANGXX)
    add_test(NAME fuzz COMMAND sh -c "echo 'SKIP: no clang++-14'; exit 77")
    set_tests_properties(fuzz PROPERTIES LABELS fuzz SKIP_RETURN_CODE 77)
    return()
endif()

ExternalProject_Add(fuzz
    SOURCE_DIR ${CMAKE_CURRENT_LIST_DIR}
    BINARY_DIR ${fuzz_dir}
    PREFIX ${fuzz_dir}-project
    LIST_SEPARATOR |
    CMAKE_ARGS -DCMAKE_CXX_COMPILER=${PVDIRTY_CLANGXX}
               -DCMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER}
               -DPVDIRTY_UAPI_INCLUDE=${PVDIRTY_UAPI_INCLUDE}
    CMAKE_CACHE_ARGS "-DPVDIRTY_LIBRARY_SOURCES:STRING=${PVDIRTY_LIBRARY_SOURCES}"
                     "-DPVDIRTY_UAPI_INCLUDE:PATH=${PVDIRTY_UAPI_INCLUDE}"
    BUILD_ALWAYS ON
    INSTALL_COMMAND "")

# Arguments: name of the test, program, seconds until it is a failure, arguments of run.py.
function(pvdirty_fuzz_test name program timeout)
    add_test(NAME fuzz.${name}
             COMMAND /usr/bin/python3 -s -B ${PROJECT_SOURCE_DIR}/tests/fuzz/run.py
                     ${fuzz_dir}/${program} --work ${PROJECT_SOURCE_DIR}/build/fuzz ${ARGN})
    set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT ${timeout})
endfunction()

foreach(target config log vmstate)
    foreach(sanitizer asan tsan)
        set(program ${target}-${sanitizer})
        pvdirty_fuzz_test(${program} ${program} 300 --seconds 20)
        set(cpu_seconds 2400)
        if(sanitizer STREQUAL tsan)
            set(cpu_seconds 1200)
        endif()
        pvdirty_fuzz_test(hour-${program} ${program} 36000 --cpu-seconds ${cpu_seconds})
        set_tests_properties(fuzz.hour-${program} PROPERTIES LABELS "fuzz;long")
    endforeach()
endforeach()

pvdirty_fuzz_test(device-asan device-asan 300 --seconds 20)
pvdirty_fuzz_test(hour-device-asan device-asan 36000 --cpu-seconds 2400)
set_tests_properties(fuzz.hour-device-asan PROPERTIES LABELS "fuzz;long")

# Bugs that are planted on purpose must be found, and by what is meant to find them.
function(pvdirty_planted name target pattern)
    pvdirty_fuzz_test(planted-${name} planted-${name} 300
                      --target ${target} --seconds 60 --finds ${pattern})
endfunction()

pvdirty_planted(config config "violated: !machine_.ram.holds_any_of")
pvdirty_planted(log log "AddressSanitizer: use-after-poison")
pvdirty_planted(vmstate vmstate "violated: cap.error <= PVDIRTY_E_LOG_GONE")
pvdirty_planted(device device "out-of-memory|length_error|allocation-size-too-big")
pvdirty_planted(race log "(?s)ThreadSanitizer: data race.* pvdirty::Log::in_flight")
