/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Marks by which a program in the guest tells executed.c what to count: the
 * no-op `nopl NUMBER(%rax)`, with a number that no compiler gives it.
 */
#ifndef MARKS_H
#define MARKS_H

#define MARK_BEGIN 0x6b724d42
#define MARK_END 0x6b724d45

#endif /* MARKS_H */
